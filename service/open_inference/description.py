"""The infer route as the OpenAPI page shows it."""

from typing import Any, Final

from service.documentation import problem_responses
from service.open_inference.schemas import InferResponse

_PARAMETERS: Final = {"type": "object", "description": "numbers, strings, booleans by name"}
_INPUT: Final = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "enum": ["image", "pixels"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "enum": ["BYTES", "UINT8"]},
        "parameters": _PARAMETERS,
        "data": {"type": "array", "items": {}},
    },
}
_OUTPUT: Final = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
}
INFER_REQUEST: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": (
                "Bytes of JSON in front of binary tensors. 0: the body is one picture, and all "
                "outputs come as binary data. Without it the body is JSON."
            ),
            "schema": {"type": "integer", "minimum": 0},
        },
        {
            "name": "Content-Encoding",
            "in": "header",
            "schema": {"type": "string", "enum": ["gzip", "deflate", "identity"]},
        },
    ],
    "requestBody": {
        "required": True,
        "description": (
            "One input: `image` (BYTES, [N]: encoded files; base64 where they are JSON), or "
            "`pixels` (UINT8, [N, H, W, 3]: upright RGB)."
        ),
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": _PARAMETERS,
                        "inputs": {"type": "array", "items": _INPUT},
                        "outputs": {"type": "array", "items": _OUTPUT},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
INFER_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The outputs, as JSON, or JSON and binary data after it",
        "model": InferResponse,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    **problem_responses(),
}
