"""The plan of a whole measurement over HTTP, without a GPU."""

import importlib.util
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import ROOT
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


SIGNALLED = """
import sys
from pathlib import Path
from benchmarks import steps
from benchmarks.report import ROOT
from benchmarks.steps import Step
from loadtests import all_gpu

steps.ROOT = Path(sys.argv[1])
all_gpu.STEPS = {name: Step("slow", f"{name}.json", (), 60) for name in "abc"}
all_gpu.visible_gpus = lambda: ("0", "1")
sys.argv[1:] = ["--out", sys.argv[1], "--logs", sys.argv[1], "--only", "a,b,c"]
sys.exit(all_gpu.main())
"""


def test_sigterm_ends_all_lanes(tmp_path: Path) -> None:
    slow = "import pathlib, os, time; pathlib.Path(f'{os.getpid()}.pid').touch(); time.sleep(60)"
    (tmp_path / "slow.py").write_text(slow)
    with subprocess.Popen(  # noqa: S603 - the program above
        [sys.executable, "-c", SIGNALLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL
    ) as program:
        deadline = time.monotonic() + 60
        while len(pids := list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        program.terminate()
        assert program.wait(timeout=30) == 128 + signal.SIGTERM
    assert len(pids) == len(list(tmp_path.glob("*.pid"))) == 2, "the third one was not started"
    assert not any(Path(f"/proc/{path.stem}").exists() for path in pids)
