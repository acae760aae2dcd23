"""The ways to split a batch give the whole batch's answer; with a stand-in for the backbone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import batch_splits
from benchmarks.batch_splits import WHOLE, in_slices, measure, run_case, through, ways
from benchmarks.report import GrowingReport

Layer = Callable[[Tensor], Tensor]
STAGES = 4


class StandIn:
    """Adds and doubles; remembers how many pictures each layer of the first stage saw."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._stages: Sequence[Sequence[Layer]] = [[self._first, self._add], *[[self._add]] * 3]
        self._downsamples: Sequence[Layer] = [lambda x: 2 * x] * (STAGES - 1)

    def _stem(self, pictures: Tensor) -> Tensor:
        return pictures.double()

    def _first(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x + 3

    def _add(self, x: Tensor) -> Tensor:
        return x + 1

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        return [through(self, self._stem(pictures), range(STAGES))]


PICTURES = torch.arange(40).view(40, 1, 1, 1).expand(40, 2, 2, 4)


@pytest.mark.parametrize("stages", [1, 2])
def test_slices_are_the_whole(stages: int) -> None:
    backbone = StandIn()
    got = in_slices(backbone, PICTURES, 16, stages)
    assert backbone.seen == [16, 16, 8]
    assert torch.equal(got, StandIn()(PICTURES)[-1])


def test_every_way_has_a_name_and_the_same_answer() -> None:
    backbone = StandIn()
    found = {name: run() for name, run in ways(backbone, PICTURES, "cpu")}
    assert next(iter(found)) == WHOLE
    assert len(found) == len(batch_splits.SLICES) + 2
    assert all(torch.equal(own, found[WHOLE]) for own in found.values())


def test_rows() -> None:
    rows = measure("case", 8, "2 streams", lambda: torch.zeros(1), "cpu", 0.001)
    assert rows[0].metric == "2 streams: throughput"
    assert {row.case for row in rows} == {"case"}


def test_a_way_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(batch_splits, "build_compiled", lambda *_: None)
    monkeypatch.setattr(batch_splits, "backbone_of", lambda _: StandIn())
    monkeypatch.setattr(batch_splits, "HW", (2, 2))
    plan = [("good", lambda: torch.zeros(1)), ("bad", fail)]
    monkeypatch.setattr(batch_splits, "ways", lambda *_: iter(plan))
    report = GrowingReport(tmp_path / "x.json", "batch-splits")
    run_case(report, "tiny", 3, "cpu", 0.001)
    assert {row.case for row in report.rows} == {"backbone-tiny-b3"}
    assert report.failures == {"backbone-tiny-b3, bad": "RuntimeError: out of memory"}
