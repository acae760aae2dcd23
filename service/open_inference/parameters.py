"""The `parameters` of an infer request: when it is computed, and what our own names mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from model.config import ModelSpec, TaskName
from service.engine.base import Priority
from service.errors import InvalidInferenceRequestError, InvalidParameterError
from service.parameters import (
    ClassifyQuery,
    DetectQuery,
    Plan,
    SegmentQuery,
    TaskQuery,
    build_plan,
)
from service.setting_groups import ThresholdSettings

_QUERIES: Final[Mapping[TaskName, type[TaskQuery]]] = MappingProxyType(
    {
        TaskName.CLASSIFY: ClassifyQuery,
        TaskName.DETECT: DetectQuery,
        TaskName.SEGMENT: SegmentQuery,
    }
)
# the others choose a form that tensors do not have, or the model, which the path names
OWN_PARAMETERS: Final[Mapping[TaskName, tuple[str, ...]]] = MappingProxyType(
    {
        TaskName.CLASSIFY: ("top_k", "classes"),
        TaskName.DETECT: ("threshold", "nms_iou", "max_detections", "classes"),
        TaskName.SEGMENT: (),
    }
)
_SCHEDULING: Final = ("priority", "timeout")


@dataclass(frozen=True, slots=True)
class Scheduling:
    """Triton's schedule policy.

    Attributes:
        priority: None: as the header says.
        timeout_ms: None: as the header says.
    """

    priority: Priority | None
    timeout_ms: float | None


def scheduling_of(parameters: Mapping[str, Any]) -> Scheduling:
    """`priority`: 1 goes first, 0 is the default; `timeout`: microseconds, 0 is the default.

    Raises:
        InvalidInferenceRequestError: not whole numbers.
    """
    priority, timeout = (_whole(parameters.get(name, 0), name) for name in _SCHEDULING)
    urgent = None if not priority else Priority.HIGH if priority == 1 else Priority.NORMAL
    return Scheduling(urgent, timeout / 1000 if timeout else None)


def plan_of(
    parameters: Mapping[str, Any],
    spec: ModelSpec,
    thresholds: ThresholdSettings,
    *,
    with_masks: bool,
) -> Plan:
    """What to compute and how to answer.

    Raises:
        InvalidInferenceRequestError: unknown names, or values that the task does not have.
    """
    found = {name: own for name, own in parameters.items() if name not in _SCHEDULING}
    known = OWN_PARAMETERS[spec.task]
    unknown = next((name for name in found if name not in known), None)
    if unknown is not None:
        expected = ", ".join((*known, *_SCHEDULING, "binary_data_output"))
        raise InvalidInferenceRequestError(
            f"unknown parameter {unknown[:60]!r}, {spec.name} knows {expected}"
        )
    if spec.task is TaskName.DETECT:
        found["masks"] = "rle" if with_masks else "none"
    try:
        query = _QUERIES[spec.task].model_validate(found, strict=True)
        return build_plan(query, spec, thresholds, default_format="native", is_picture=False)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise InvalidInferenceRequestError(
            f"parameter {first['loc'][0]!r}: {first['msg']}"
        ) from exc
    except InvalidParameterError as exc:
        raise InvalidInferenceRequestError(exc.detail) from exc


def _whole(found: Any, name: str) -> int:
    if type(found) is not int or found < 0:
        raise InvalidInferenceRequestError(
            f"parameter {name!r} is {repr(found)[:60]}, expected a whole number"
        )
    return found
