"""What travels between front ends and engines, as JSON fields and raw bytes."""

from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.config import ModelSpec, TaskName
from model.results import (
    DEFAULT_PARAMS,
    Classification,
    Detections,
    Params,
    Result,
    Rle,
    Segmentation,
)
from service.engine.base import EngineState, EngineStatus, ServedModel
from service.errors import InternalError, ServiceError, error_classes

_ERRORS: Final[Mapping[str, type[ServiceError]]] = {own.code: own for own in error_classes()}


def params_to_fields(params: Params) -> list[Any]:
    """Values in the order of the dataclass."""
    return [getattr(params, own.name) for own in fields_of(params)]


def params_from_fields(task: TaskName, values: list[Any]) -> Params:
    """Inverse of `params_to_fields`."""
    return type(DEFAULT_PARAMS[task])(*values)


def model_to_fields(model: ServedModel) -> dict[str, Any]:
    """JSON types only."""
    return {
        "spec": model.spec.to_json(),
        "backend": model.backend,
        "device": model.device,
        "dtype": model.dtype,
        "sha256": model.sha256,
        "is_default": model.is_default,
    }


def model_from_fields(fields: Mapping[str, Any]) -> ServedModel:
    """Inverse of `model_to_fields`."""
    return ServedModel(**{**fields, "spec": ModelSpec.from_json(fields["spec"])})


def status_to_fields(status: EngineStatus) -> dict[str, Any]:
    """JSON types only."""
    return {
        "state": status.state.value,
        "heartbeat_age_s": status.heartbeat_age_s,
        "detail": status.detail,
    }


def status_from_fields(fields: Mapping[str, Any]) -> EngineStatus:
    """Inverse of `status_to_fields`."""
    return EngineStatus(
        state=EngineState(fields["state"]),
        heartbeat_age_s=fields["heartbeat_age_s"],
        detail=fields["detail"],
    )


def error_to_fields(error: ServiceError) -> dict[str, Any]:
    """What the client is told of an error."""
    return {"code": error.code, "detail": error.detail, "retry_after_s": error.retry_after_s}


def error_from_fields(fields: Mapping[str, Any]) -> ServiceError:
    """Inverse of `error_to_fields`."""
    kind = _ERRORS.get(fields["code"], InternalError)
    return kind(fields["detail"], retry_after_s=fields["retry_after_s"])


def pack_result(result: Result, picture: NDArray[np.uint8]) -> tuple[dict[str, Any], bytes]:
    """Fields and payload.

    Args:
        picture: (3 H W,) uint8, the picture's place in shared memory, no longer needed: a class
            map goes there.
    """
    match result:
        case Classification(probabilities):
            return {"task": "classify"}, probabilities.tobytes()
        case Segmentation(label_map):
            picture[: label_map.size] = label_map.reshape(-1)
            return {"task": "segment", "hw": label_map.shape}, b""
        case Detections(boxes, scores, class_ids, masks):
            fields: dict[str, Any] = {"task": "detect", "count": len(scores), "masks": None}
            if masks is not None:
                fields["masks"] = [own.counts for own in masks]
                fields["hw"] = (masks[0].height, masks[0].width) if masks else (0, 0)
            # boxes last: 8-byte integers first keep all of them aligned
            return fields, class_ids.tobytes() + scores.tobytes() + boxes.tobytes()
    raise TypeError(f"no such result: {type(result).__name__}")


def unpack_result(fields: Mapping[str, Any], payload: bytes, picture: NDArray[np.uint8]) -> Result:
    """Inverse of `pack_result`; keeps no reference to `picture`."""
    match fields["task"]:
        case "classify":
            return Classification(np.frombuffer(payload, dtype=np.float32))
        case "segment":
            height, width = fields["hw"]
            return Segmentation(picture[: height * width].reshape(height, width).copy())
    count, masks = fields["count"], fields["masks"]
    return Detections(
        class_ids=np.frombuffer(payload, np.int64, count),
        scores=np.frombuffer(payload, np.float32, count, offset=8 * count),
        boxes=np.frombuffer(payload, np.float32, 4 * count, offset=12 * count).reshape(count, 4),
        masks=None if masks is None else _rles(masks, *fields["hw"]),
    )


def _rles(counts: list[str], height: int, width: int) -> tuple[Rle, ...]:
    return tuple(Rle(height, width, own) for own in counts)
