"""`smserve evaluate` that is interrupted, killed or asked again goes on where it was."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from model.config import TaskName
from model.evaluation.journal import Journal
from model.predictor import Predictor
from tests.evaluate_command.runs import NAMES, SIZES, evaluate, smserve
from tests.model.evaluation.layouts import (
    box_annotation,
    noise,
    write_ade20k,
    write_coco,
    write_imagenet,
)
from tests.service.processes import ROOT

SLOW = """
import signal, sys, time
# what a shell starts in the background, tests for example, ignores it
signal.signal(signal.SIGINT, signal.default_int_handler)
from model.evaluation import published
from model.evaluation.journal import Journal
from service.cli.app import main

append, done = Journal.append, []
def slowly(self, name, record):
    # those that the tests wait for, then time for the signal to come in
    done.append(name)
    time.sleep(0.05 if len(done) < 10 else 1)
    append(self, name, record)
Journal.append = slowly
sys.argv = ["smserve", *sys.argv[1:]]
main()
"""


def start_slowly(*args: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", SLOW, *(str(arg) for arg in args)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_records(path: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "no records"
        time.sleep(0.01)


def test_a_run_that_was_killed_ends_with_the_figures_of_one_that_was_not(
    tmp_path: Path, models: dict[TaskName, Path], folders: Path
) -> None:
    options = ("--model", models[TaskName.CLASSIFY], "--batch-size", 1, "--device", "cpu")
    whole = evaluate("classify", folders, *options, "--work", "whole")
    killed = start_slowly("evaluate", "classify", "--data", folders, *options, "--work", "killed")
    try:
        wait_for_records(tmp_path / "killed" / "records.jsonl", 9)
        killed.send_signal(signal.SIGKILL)
    finally:
        killed.kill()
        killed.communicate()
    num_before = len((tmp_path / "killed" / "records.jsonl").read_text().splitlines())
    assert 9 <= num_before < 24
    goes_on = ("--work", "killed", "--json", "again.json")
    result = smserve("evaluate", "classify", "--data", folders, *options, *goes_on)
    assert result.exit_code == 0, result.stderr
    assert f"going on after {num_before // 8 * 8} pictures" in result.stderr
    assert json.loads(Path("again.json").read_text())["metrics"] == whole["metrics"]
    assert records("killed") == records("whole")


def records(work: str) -> dict[str, Any]:
    lines = (json.loads(line) for line in (Path(work) / "records.jsonl").read_text().splitlines())
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("task", list(TaskName))
def test_an_interruption_tells_how_to_go_on(
    task: TaskName,
    tmp_path: Path,
    models: dict[TaskName, Path],
    folders: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches of several shapes: what shares one must be the same again."""
    # detection is slow: fewer pictures, one by one
    size, count, stop = (1, 10, 9) if task is TaskName.DETECT else (2, 20, 18)
    data = {TaskName.CLASSIFY: folders}.get(task) or data_of(task, tmp_path / "data of task")
    options = ("--model", models[task], "--batch-size", size, "--limit", count)
    whole = evaluate(task, data, *options, "--work", "whole")
    append = Journal.append
    names: list[str] = []

    def interrupted(self: Journal, name: str, record: Any) -> None:
        names.append(name)
        if len(names) == stop:
            raise KeyboardInterrupt
        append(self, name, record)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", interrupted)
        result = smserve("evaluate", task, "--data", data, *options, "--device", "cpu")
    assert result.exit_code == 130
    problem, command = result.stderr.strip().splitlines()
    assert problem == f"error: interrupted after {stop - 1} of {count} pictures; this goes on:"
    again = smserve(*shlex.split(command)[1:], "--json", "again.json")
    assert again.exit_code == 0, again.stderr
    assert f"going on after {8 * size} pictures" in again.stderr
    assert json.loads(Path("again.json").read_text())["metrics"] == whole["metrics"]
    work = shlex.split(command)[shlex.split(command).index("--work") + 1]
    assert records(work) == records("whole")


def data_of(task: TaskName, root: Path) -> Path:
    """20 pictures of three shapes."""
    pictures = {f"{i:02d}": noise(i, *SIZES[i % len(SIZES)]) for i in range(20)}
    if task is TaskName.SEGMENT:
        return write_ade20k(root, {k: (rgb, rgb[..., 0] % 4) for k, rgb in pictures.items()})
    boxes = [box_annotation(i + 1, i % 3 + 1, 3, 4, 20, 30) for i in range(20)]
    named = {f"{k}.png": rgb for k, rgb in pictures.items()}
    return write_coco(root, named, boxes, dict(enumerate(NAMES, start=1)))


def test_ctrl_c_ends_a_real_process_with_the_command_to_go_on(
    tmp_path: Path, models: dict[TaskName, Path], folders: Path
) -> None:
    options = ("--model", models[TaskName.CLASSIFY], "--device", "cpu", "--work", "w")
    process = start_slowly("evaluate", "classify", "--data", folders, *options)
    try:
        wait_for_records(tmp_path / "w" / "records.jsonl", 3)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "smserve evaluate classify --data" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


def test_a_finished_run_answers_at_once(
    models: dict[TaskName, Path], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", models[TaskName.CLASSIFY])
    first = evaluate("classify", folders, *options)
    monkeypatch.setattr(Predictor, "infer", lambda *args: pytest.fail("was asked again"))
    second = evaluate("classify", folders, *options)
    assert second["metrics"] == first["metrics"]
    assert second["images_per_s"] is None
    assert first["images_per_s"] > 0


def test_a_different_run_in_the_same_folder_is_refused(
    models: dict[TaskName, Path], folders: Path
) -> None:
    options = ("--model", models[TaskName.CLASSIFY], "--work", "w", "--device", "cpu")
    evaluate("classify", folders, *options)
    write_imagenet(folders, {"cat/99.png": noise(99, 8, 8)})
    result = smserve("evaluate", "classify", "--data", folders, *options, "--batch-size", 4)
    assert result.exit_code == 1
    assert "data was" in result.stderr
    assert "pictures was 24, is 25" in result.stderr
    assert "batch_size was 8, is 4" in result.stderr
    assert evaluate("classify", folders, *options, "--fresh")["data"]["pictures"] == 25
