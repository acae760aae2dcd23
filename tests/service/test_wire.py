"""What crosses between front ends and engines arrives as it was."""

import numpy as np
import pytest

from model.config import TaskName
from model.results import (
    DEFAULT_PARAMS,
    Classification,
    Detections,
    DetectParams,
    Params,
    Rle,
    Segmentation,
)
from service.backends.stub import StubBackend
from service.engine.base import EngineState, EngineStatus, ServedModel
from service.errors import InternalError, QueueFullError, error_classes
from service.processes import wire
from service.setting_groups import StubSettings

MASKS = (Rle(40, 60, "abc"), Rle(40, 60, "`0~"))


def detections(count: int, masks: tuple[Rle, ...] | None) -> Detections:
    random = np.random.default_rng(count)
    return Detections(
        boxes=random.random((count, 4), dtype=np.float32),
        scores=random.random(count, dtype=np.float32),
        class_ids=random.integers(0, 2**40, count),
        masks=masks,
    )


@pytest.mark.parametrize(
    "result",
    [
        Classification(np.linspace(0, 1, 1000, dtype=np.float32)),
        Segmentation(np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)),
        detections(2, MASKS),
        detections(3, None),
        detections(0, ()),
        detections(0, None),
    ],
    ids=repr,
)
def test_results(result: Classification | Segmentation | Detections) -> None:
    picture = np.zeros(3 * 40 * 60, dtype=np.uint8)
    fields, payload = wire.pack_result(result, picture)
    got = wire.unpack_result(fields, payload, picture)
    picture[:] = 99  # the next picture takes the place
    assert type(got) is type(result)
    for name in result.__slots__:
        own, other = getattr(result, name), getattr(got, name)
        if isinstance(own, np.ndarray):
            assert own.dtype == other.dtype
            np.testing.assert_array_equal(own, other)
        else:
            assert own == other


@pytest.mark.parametrize(
    ("task", "params"),
    [
        *DEFAULT_PARAMS.items(),
        (TaskName.DETECT, DetectParams(0.5, 0.25, 7, 11, False)),
    ],
    ids=str,
)
def test_params(task: TaskName, params: Params) -> None:
    assert wire.params_from_fields(task, wire.params_to_fields(params)) == params


def test_models_and_status() -> None:
    backend = StubBackend(TaskName.DETECT, StubSettings())
    model = ServedModel(
        spec=backend.spec,
        backend="stub",
        device="cpu",
        dtype="uint8",
        sha256=None,
        is_default=True,
    )
    assert wire.model_from_fields(wire.model_to_fields(model)) == model
    status = EngineStatus(state=EngineState.DRAINING, heartbeat_age_s=0.5, detail="soon")
    assert wire.status_from_fields(wire.status_to_fields(status)) == status


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.code)
def test_every_error_keeps_its_meaning(kind: type[QueueFullError]) -> None:
    error = kind("why", retry_after_s=3)
    got = wire.error_from_fields(wire.error_to_fields(error))
    assert (type(got), got.detail, got.retry_after_s) == (kind, "why", 3)


def test_an_unknown_error_is_a_bug() -> None:
    got = wire.error_from_fields({"code": "new", "detail": "x", "retry_after_s": None})
    assert type(got) is InternalError
