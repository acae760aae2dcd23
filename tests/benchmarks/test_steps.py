"""Programs of a long measurement end, and leave nothing running."""

import os
import threading
import time
from pathlib import Path

import pytest

from benchmarks import steps
from benchmarks.steps import FOLDER, Step

PROGRAMS = {
    "good": "import sys; print(sys.argv[1:], flush=True)",
    "bad": "raise SystemExit(3)",
    "slow": "import time; time.sleep(60)",
    "orderly": (
        "import signal, sys, time\n"
        "def tidy_up(*_):\n    print('tidied up', flush=True)\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, tidy_up)\nprint('started', flush=True)\ntime.sleep(60)"
    ),
    "deaf": (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\nprint(child.pid, flush=True)\ntime.sleep(60)"
    ),
    "variable": "import os; print(os.environ['COLOUR'], flush=True)",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, body in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    return tmp_path


def test_a_step_tells_how_it_ended(folder: Path) -> None:
    assert Step("good", "x.json", (), 30).run(folder, 30).startswith("done in ")
    assert Step("bad", "x.json", (), 30).run(folder, 30).startswith("exit status 3 after")
    stopped = Step("slow", "x.json", (), 30, least_s=0).run(folder, 1)
    assert stopped.startswith("stopped after 1 s")


def test_a_step_without_time_is_not_started(folder: Path) -> None:
    log = folder / "log"
    assert "not started" in Step("good", "x.json", (), 30, least_s=20).run(folder, 19, log=log)
    assert not log.exists()


def test_a_step_gets_its_files_command_and_variables(folder: Path) -> None:
    log = folder / "log"
    arguments = ("--against", f"{FOLDER}/other.json")
    Step("good", "x.json", arguments, 30).run(folder, 30, log=log)
    assert (
        log.read_text() == f"{['--out', f'{folder}/x.json', '--against', f'{folder}/other.json']}\n"
    )
    log.unlink()
    step = Step("variable", "x.json", (), 30)
    step.run(folder, 30, before=("env", "COLOUR=red"), variables={"COLOUR": "blue"}, log=log)
    assert log.read_text() == "red\n"
    log.unlink()
    step.run(folder, 30, variables={"COLOUR": "blue"}, log=log)
    assert log.read_text() == "blue\n"


def test_a_program_can_tidy_up(folder: Path) -> None:
    log = folder / "log"
    # on a busy machine it may take a second to start
    Step("orderly", "x.json", (), 4, least_s=0).run(folder, 30, log=log)
    assert log.read_text() == "started\ntidied up\n"


def test_a_program_is_stopped_early(folder: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    assert Step("slow", "x.json", (), 30).run(folder, 30, stop=stop).startswith("stopped after")
    assert time.monotonic() - started < 25


def test_a_deaf_program_ends_with_its_children(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_TIDY_UP_S", 0.5)
    log = folder / "log"
    Step("deaf", "x.json", (), 4, least_s=0).run(folder, 30, log=log)
    child = int(log.read_text())
    deadline = time.monotonic() + 30
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
