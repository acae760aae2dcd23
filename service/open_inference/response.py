"""Output tensors -> the body of an answer: JSON, perhaps followed by binary data. Pure."""

from collections.abc import Sequence
from typing import Any

import orjson

from service.errors import InvalidInferenceRequestError
from service.open_inference.request import MAX_JSON_VALUES
from service.open_inference.tensors import Tensor
from service.work_paths import MODEL_VERSION


def encode_response(
    model: str, request_id: str | None, outputs: Sequence[tuple[Tensor, bool]]
) -> tuple[bytes, int | None]:
    """An infer response.

    Args:
        outputs: and whether each is to be binary data.

    Returns:
        the body, and how much of it is JSON; None: all.

    Raises:
        InvalidInferenceRequestError: too much to be written as JSON.
    """
    answer: dict[str, Any] = {"model_name": model, "model_version": MODEL_VERSION}
    if request_id is not None:
        answer["id"] = request_id
    answer["outputs"] = described = []
    tails = []
    for tensor, is_binary in outputs:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if is_binary:
            tails.append(tensor.to_bytes())
            entry["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            entry["data"] = _json_data(tensor)
        described.append(entry)
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([head, *tails]), len(head) if tails else None


def _json_data(tensor: Tensor) -> Any:
    values = tensor.to_json()
    if len(values) > MAX_JSON_VALUES:
        raise InvalidInferenceRequestError(
            f"output {tensor.name!r} has {len(values)} values, at most {MAX_JSON_VALUES} as JSON; "
            "ask for binary_data"
        )
    return values
