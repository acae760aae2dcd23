"""`POST /classify`, `/detect`, `/segment`, and `/hf/...` for Hugging Face clients."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from model.config import TaskName
from service.context import Context
from service.documentation import problem_responses
from service.parameters import ClassifyQuery, DetectQuery, SegmentQuery
from service.routes.task_route import TaskRoute
from service.schemas import ClassifyBody, DetectBody, SegmentBody

router = APIRouter(tags=["tasks"], route_class=TaskRoute)

_REQUEST: Final = {
    "parameters": [
        {
            "name": "X-Priority",
            "in": "header",
            "description": "What is `high` goes before what is `normal`.",
            "schema": {"type": "string", "enum": ["high", "normal"], "default": "normal"},
        },
        {
            "name": "X-Request-Timeout-Ms",
            "in": "header",
            "description": "As the query parameter `timeout_ms`, which wins.",
            "schema": {"type": "integer", "minimum": 1},
        },
    ],
    "requestBody": {
        "required": True,
        "description": (
            "The bytes of a JPEG, PNG, WebP, BMP, TIFF or GIF file with any content type; or one "
            "or more files in the multipart field `image`; or `inputs` as base64 in JSON."
        ),
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "inputs": {"type": "string", "contentEncoding": "base64"},
                        "parameters": {"type": "object"},
                    },
                    "additionalProperties": False,
                }
            },
        },
    },
}


def _responses(body: Any) -> dict[int | str, dict[str, Any]]:
    picture = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
    answered = {"description": "The answer, or a list of them", "model": body, "content": picture}
    return {200: answered, **problem_responses()}


@router.post(
    "/classify",
    response_model=None,
    responses=_responses(ClassifyBody),
    openapi_extra=_REQUEST,
)
async def classify(
    request: Request, query: Annotated[ClassifyQuery, Query()], context: Context
) -> Response:
    """What the picture shows: the best classes with their probabilities."""
    return await context.prediction.answer(request, TaskName.CLASSIFY, query, "native")


@router.post(
    "/detect", response_model=None, responses=_responses(DetectBody), openapi_extra=_REQUEST
)
async def detect(
    request: Request, query: Annotated[DetectQuery, Query()], context: Context
) -> Response:
    """The objects in the picture: boxes, scores and masks."""
    return await context.prediction.answer(request, TaskName.DETECT, query, "native")


@router.post(
    "/segment", response_model=None, responses=_responses(SegmentBody), openapi_extra=_REQUEST
)
async def segment(
    request: Request, query: Annotated[SegmentQuery, Query()], context: Context
) -> Response:
    """The class of every pixel, and the share of every class."""
    return await context.prediction.answer(request, TaskName.SEGMENT, query, "native")


@router.post("/hf/classify", response_model=None, include_in_schema=False)
async def hf_classify(
    request: Request, query: Annotated[ClassifyQuery, Query()], context: Context
) -> Response:
    return await context.prediction.answer(request, TaskName.CLASSIFY, query, "hf")


@router.post("/hf/detect", response_model=None, include_in_schema=False)
async def hf_detect(
    request: Request, query: Annotated[DetectQuery, Query()], context: Context
) -> Response:
    return await context.prediction.answer(request, TaskName.DETECT, query, "hf")


@router.post("/hf/segment", response_model=None, include_in_schema=False)
async def hf_segment(
    request: Request, query: Annotated[SegmentQuery, Query()], context: Context
) -> Response:
    return await context.prediction.answer(request, TaskName.SEGMENT, query, "hf")
