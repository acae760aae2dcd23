"""`/v2`: the Open Inference Protocol, and what Triton's clients ask for besides."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.context import Context, ServiceContext
from service.documentation import COMMON_ERRORS, KEY_ERRORS, problem_responses
from service.engine.base import ServedModel
from service.errors import (
    EngineUnavailableError,
    InvalidParameterError,
    MalformedBodyError,
    ModelNotFoundError,
    NotReadyError,
    RouteNotFoundError,
    ShuttingDownError,
)
from service.jobs import read_body
from service.json_values import load_json
from service.open_inference import metadata
from service.open_inference.description import INFER_REQUEST, INFER_RESPONSES
from service.open_inference.inference import find_model
from service.open_inference.schemas import (
    IndexEntry,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    StatisticsList,
)
from service.open_inference.statistics import statistics_of
from service.routes.status import livez, readyz
from service.work_paths import MODEL_VERSION

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

_HEALTH: Final = problem_responses(
    [*COMMON_ERRORS, NotReadyError, EngineUnavailableError, ShuttingDownError]
)
_MODEL_HEALTH: Final = problem_responses(
    [
        *COMMON_ERRORS,
        InvalidParameterError,
        ModelNotFoundError,
        NotReadyError,
        EngineUnavailableError,
        ShuttingDownError,
    ]
)
_MODEL: Final = problem_responses(
    [*KEY_ERRORS, InvalidParameterError, ModelNotFoundError, NotReadyError]
)
_NOT_OFFERED: Final = {
    "repository/models/{name}/load": "models are loaded by the operator, see `smserve reload`",
    "repository/models/{name}/unload": "models are unloaded by the operator, see `smserve reload`",
    "trace/setting": "tracing is set by the operator, see `tracing.endpoint`",
    "models/{name}/trace/setting": "tracing is set by the operator, see `tracing.endpoint`",
    "logging": "logging is set by the operator, see `log.level`",
    "{kind}sharedmemory/{rest:path}": "shared memory is not offered, send binary data",
}


@router.get("/health/live", responses=_HEALTH)
async def live(context: Context) -> ServerLive:
    """As `/livez`; false is 503."""
    await livez(context)
    return ServerLive()


@router.get("/health/ready", responses=_HEALTH)
async def ready(context: Context) -> ServerReady:
    """As `/readyz`; false is 503."""
    await readyz(context)
    return ServerReady()


@router.get("", responses=problem_responses(COMMON_ERRORS))
@router.get("/", include_in_schema=False)
async def server_metadata() -> ServerMetadata:
    """Who answers, and with which extensions."""
    return metadata.server_metadata()


@router.get("/models/stats", responses=problem_responses([*KEY_ERRORS, NotReadyError]))
async def all_statistics(context: Context) -> StatisticsList:
    """What the models have done since the start."""
    return await _statistics(context, context.engine.models())


@router.get("/models/{name}/stats", responses=_MODEL)
@router.get("/models/{name}/versions/{version}/stats", responses=_MODEL)
async def model_statistics(
    context: Context, name: str, version: str = MODEL_VERSION
) -> StatisticsList:
    """What a model has done since the start."""
    return await _statistics(context, [find_model(context.engine.models(), name, version)])


@router.get("/models/{name}/ready", responses=_MODEL_HEALTH)
@router.get("/models/{name}/versions/{version}/ready", responses=_MODEL_HEALTH)
async def model_ready(context: Context, name: str, version: str = MODEL_VERSION) -> ModelReady:
    """This model answers; false is 503, or 404 where there is no such model."""
    await readyz(context)
    return ModelReady(name=find_model(context.engine.models(), name, version).spec.name)


@router.get("/models/{name}/config", responses=_MODEL)
@router.get("/models/{name}/versions/{version}/config", responses=_MODEL)
async def model_config(context: Context, name: str, version: str = MODEL_VERSION) -> dict[str, Any]:
    """In the form of Triton's model configuration; `parameters` has the names of the classes."""
    return metadata.model_config(find_model(context.engine.models(), name, version))


@router.get("/models/{name}", responses=_MODEL)
@router.get("/models/{name}/versions/{version}", responses=_MODEL)
async def model_metadata(
    context: Context, name: str, version: str = MODEL_VERSION
) -> ModelMetadata:
    """Inputs and outputs of a model."""
    return metadata.model_metadata(find_model(context.engine.models(), name, version))


@router.post(
    "/models/{name}/infer",
    response_model=None,
    responses=INFER_RESPONSES,
    openapi_extra=INFER_REQUEST,
)
@router.post(
    "/models/{name}/versions/{version}/infer",
    response_model=None,
    responses=INFER_RESPONSES,
    openapi_extra=INFER_REQUEST,
)
async def infer(
    request: Request, context: Context, name: str, version: str = MODEL_VERSION
) -> Response:
    """Pictures in one tensor, answers in tensors."""
    return await context.open_inference.infer(request, name, version)


@router.post("/repository/index", responses=problem_responses([*KEY_ERRORS, MalformedBodyError]))
async def repository_index(request: Request, context: Context) -> list[IndexEntry]:
    """The served models; only those that are ready are known."""
    body = await read_body(request)
    if body.strip():
        load_json(body, max_values=100)
    return [
        IndexEntry(name=model.spec.name, version=MODEL_VERSION, state="READY", reason="")
        for model in context.engine.models()
    ]


async def _statistics(context: ServiceContext, models: Sequence[ServedModel]) -> StatisticsList:
    content, _ = await context.scrape()
    found = await context.pool.run(statistics_of, content.decode(), models)
    return StatisticsList(model_stats=found)


def _refuse(path: str, reason: str) -> None:
    async def refuse() -> None:
        raise RouteNotFoundError(reason)

    router.add_api_route(f"/{path}", refuse, methods=["GET", "POST"], include_in_schema=False)


for _path, _reason in _NOT_OFFERED.items():
    _refuse(_path, _reason)
