"""What only a GPU shows of staging in a second thread: streams, captures, memory."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from model.config import TaskName
from model.results import Params, Result
from tests.model.compiled_cases import assert_same, make_params, make_pictures, make_predictor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TASKS = list(TaskName)


class Staging:
    """Calls in a thread of their own; `result` waits and raises what they raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as exc:  # noqa: BLE001 - raised again by `result`
            self._error = exc

    def result(self) -> Any:
        self._thread.join(60)
        if self._error is not None:
            raise self._error
        return self._result


@pytest.mark.parametrize("preprocessing", ["fast", "exact"])
@pytest.mark.parametrize("task", TASKS)
def test_batches_staged_beside_the_running_one(task: TaskName, preprocessing: str) -> None:
    predictor = make_predictor(task, buckets=(1, 2, 4, 8), preprocessing=preprocessing)
    pictures, params = make_pictures(task), make_params(task)
    batch = [predictor.prepare(picture) for picture in pictures]
    alone = [
        predictor.finish(predictor.infer([own], [param])[0], own)
        for own, param in zip(batch, params, strict=True)
    ]
    rng = np.random.default_rng(0)

    def stage() -> tuple[list[int], Any]:
        chosen = rng.integers(0, 5, rng.integers(1, 9)).tolist()
        return chosen, predictor.stage([batch[i] for i in chosen], [params[i] for i in chosen])

    following = Staging(stage)
    for _ in range(60):
        chosen, staged = following.result()
        following = Staging(stage)
        for index, raw in zip(chosen, predictor.infer_staged(staged), strict=True):
            assert_same(predictor.finish(raw, batch[index]), alone[index])
    following.result()


@pytest.mark.parametrize("preprocessing", ["fast", "exact"])
def test_staging_goes_on_while_graphs_are_captured(preprocessing: str) -> None:
    task = TaskName.CLASSIFY
    predictor = make_predictor(
        task, buckets=(1, 2, 3, 4, 5, 6, 7, 8), preprocessing=preprocessing, max_graphs=2
    )
    batch = [predictor.prepare(picture) for picture in make_pictures(task)]
    params: list[Params] = make_params(task)
    expected: list[Result] = [
        predictor.finish(predictor.infer([own], [param])[0], own)
        for own, param in zip(batch, params, strict=True)
    ]
    stop = threading.Event()
    counts = []

    def stage_for_ever() -> Any:
        staged = None
        while not stop.is_set():
            # of growing size, so that memory is allocated meanwhile; all but the last are dropped
            size = len(counts) % 40 + 1
            staged = predictor.stage((batch * 8)[:size], (params * 8)[:size])
            counts.append(size)
        return staged

    staging = Staging(stage_for_ever)
    try:
        for _ in range(3):
            for size in range(1, 9):
                predictor.warm_up([size])
    finally:
        stop.set()
    last = predictor.infer_staged(staging.result())
    assert len(counts) > 50, "nothing was staged meanwhile"
    for index, raw in enumerate(last):
        assert_same(predictor.finish(raw, batch[index % 5]), expected[index % 5])


def test_dropped_batches_leave_no_memory_behind() -> None:
    predictor = make_predictor(TaskName.CLASSIFY)
    picture = predictor.prepare(np.zeros((1000, 1000, 3), dtype=np.uint8))
    params = make_params(TaskName.CLASSIFY, 4)
    predictor.infer([picture] * 4, params)
    sizes = []
    for _ in range(30):
        for _ in range(3):
            predictor.stage([picture] * 4, params)
        predictor.infer([picture] * 4, params)
        torch.cuda.synchronize()
        sizes.append(torch.cuda.memory_reserved())
    assert sizes[-1] == sizes[5]
