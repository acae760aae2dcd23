"""The plan of a whole measurement over HTTP, without a GPU."""

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.steps import Step
from loadtests.all_gpu import STEPS, Lane, Run, lanes_of
from loadtests.peers.start import PEERS


def test_every_name_of_the_plan_exists() -> None:
    assert all(importlib.util.find_spec(step.module) for step in STEPS.values())
    for step in STEPS.values():
        if "--peers" in step.arguments:
            peers = step.arguments[step.arguments.index("--peers") + 1]
            assert {peer for peer in peers.split(",") if peer} <= set(PEERS)
        assert step.least_s <= step.limit_s


def test_lanes_share_the_cores() -> None:
    lanes = lanes_of(("0", "1"), tuple(range(9)), 2)
    assert lanes == (Lane(("0",), (0, 1, 2, 3)), Lane(("1",), (4, 5, 6, 7)))
    assert lanes_of(("0", "1"), tuple(range(9)), 1) == (Lane(("0",), tuple(range(9))),)
    assert lanes[1].command == ("taskset", "-c", "4,5,6,7")
    assert lanes[1].variables == {"CUDA_VISIBLE_DEVICES": "1"}


class Recorder:
    """Stands for `Step.run`; programs end when all that can run side by side do."""

    def __init__(self, side_by_side: int) -> None:
        self._barrier = threading.Barrier(side_by_side)
        self.ran: list[tuple[str, str]] = []

    def run(self, step: Step, folder: Path, left_s: float, **options: Any) -> str:
        if step.gpus == 1 and len(self.ran) < self._barrier.parties:
            self.ran.append((step.file, options["variables"]["CUDA_VISIBLE_DEVICES"]))
            self._barrier.wait(timeout=10)
        else:
            self.ran.append((step.file, options["variables"]["CUDA_VISIBLE_DEVICES"]))
        return "done"


def run_all(
    steps: Sequence[Step], gpus: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, str]]:
    recorder = Recorder(len(gpus))
    monkeypatch.setattr(Step, "run", lambda *args, **options: recorder.run(*args, **options))
    cores = tuple(range(4))
    run = Run(folder, folder, 60)
    run.all(
        {step.file: step for step in steps}, lanes_of(gpus, cores, len(gpus)), Lane(gpus, cores)
    )
    return recorder.ran


def test_gpus_work_side_by_side_and_then_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [Step("x", "both", (), 30, gpus=2), *(Step("x", name, (), 30) for name in "abc")]
    ran = run_all(steps, ("0", "1"), tmp_path, monkeypatch)
    assert {name for name, _ in ran[:2]} == {"a", "b"}
    assert {gpu for _, gpu in ran[:2]} == {"0", "1"}
    assert [name for name, _ in ran[2:]] == ["c", "both"]
    assert ran[-1] == ("both", "0,1")


def test_what_needs_more_gpus_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [Step("x", "a", (), 30), Step("x", "both", (), 30, gpus=2)]
    assert run_all(steps, ("0",), tmp_path, monkeypatch) == [("a", "0")]
    assert "both: not started: needs 2 GPUs" in capsys.readouterr().out
