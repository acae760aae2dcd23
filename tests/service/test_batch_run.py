"""What shares a batch depends on the pictures alone, not on which thread was faster."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.results import Classification, ClassifyParams
from service.backends.base import HeldBatch
from service.cli.batch_run import BatchRun, BatchRunOptions, Outcome

# side of each picture; 0 cannot be read
SIDES = [2, 3, 2, 2, 4, 0, 3, 3, 2, 4, 2, 2, 3, 2, 0, 2, 3, 3, 3, 2, 4, 2, 2, 2, 3, 2, 4, 4, 2, 3]
BLOCK = 10


@dataclass(frozen=True)
class Input:
    number: int
    shape: tuple[int, int]
    original_hw: tuple[int, int]


class Recorder:
    """A backend that notes its batches; the pictures' first pixel is their number."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def prepare(self, rgb: NDArray[np.uint8]) -> Input:
        hw = (rgb.shape[0], rgb.shape[1])
        return Input(int(rgb[0, 0, 0]), hw, hw)

    def stage(self, batch: Sequence[Input], params: Sequence[Any]) -> HeldBatch:
        return HeldBatch(batch, params)

    def infer(self, staged: HeldBatch) -> list[int]:
        assert len({item.shape for item in staged.images}) == 1
        self.batches.append([item.number for item in staged.images])
        return self.batches[-1]

    def finish(self, raw: int, prepared: Input) -> Classification:
        assert raw == prepared.number
        return Classification(np.array([raw], np.float32))


def run(seed: int, first: int = 0) -> tuple[list[list[int]], list[Outcome[int, int]]]:
    """Batches and outcomes of the pictures from `first` on, with other delays for every seed."""
    delays = np.random.default_rng(seed).choice([0, 0.001, 0.01], len(SIDES))

    def read(number: int) -> NDArray[np.uint8]:
        time.sleep(delays[number])
        if SIDES[number] == 0:
            raise OSError("damaged")
        return np.full((SIDES[number], SIDES[number], 3), number, np.uint8)

    recorder = Recorder()
    batches: BatchRun[int, int] = BatchRun(
        recorder,  # type: ignore[arg-type]
        BatchRunOptions(params=ClassifyParams(), batch_size=3, num_threads=4),
        read=read,
        finish=lambda number, result, hw, _: number * hw[0],
        group=lambda number: number // BLOCK,
    )
    outcomes = list(batches.run(range(first, len(SIDES))))
    return recorder.batches, outcomes


def test_delays_do_not_change_the_batches() -> None:
    runs = [run(seed) for seed in range(6)]
    for batches, outcomes in runs:
        assert sorted(map(tuple, batches)) == sorted(map(tuple, runs[0][0]))
        assert [outcome.item for outcome in outcomes] == list(range(len(SIDES)))
        for outcome in outcomes:
            side = SIDES[outcome.item]
            assert outcome.output == (outcome.item * side if side else None)
            assert outcome.is_readable == bool(side)
            assert outcome.error == (None if side else "damaged")
    sizes = [len(batch) for batch in runs[0][0]]
    assert max(sizes) == 3
    assert sizes.count(3) >= 5


@pytest.mark.parametrize("first", [BLOCK, 2 * BLOCK])
def test_what_was_done_before_does_not_change_the_batches(first: int) -> None:
    whole, _ = run(1)
    part, _ = run(2, first)
    assert sorted(map(tuple, part)) == sorted(tuple(b) for b in whole if b[0] >= first)
    assert all(number // BLOCK == batch[0] // BLOCK for batch in whole for number in batch)
