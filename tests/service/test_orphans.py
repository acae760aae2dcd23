"""Grandchildren whose parent died: the first process of a container must take note of their end."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest

from service.processes.children import Orphans

# prctl.h of Linux: orphans below this process become its children, as they do below process 1
_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def orphan() -> Iterator[int]:
    """Number of a process whose parent has ended and which is therefore this one's child."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        made = subprocess.run(
            ["/bin/sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"],
            capture_output=True,
            text=True,
            check=True,
        )
        pid = int(made.stdout)
        assert psutil.Process(pid).ppid() == os.getpid()
        yield pid
    finally:
        prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_an_orphan_does_not_stay_as_a_zombie(orphan: int) -> None:
    orphans = Orphans()
    orphans.add(orphan)
    orphans.reap()
    assert psutil.pid_exists(orphan), "it runs on"
    os.kill(orphan, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(orphan):
        assert time.monotonic() < deadline, psutil.Process(orphan).status()
        orphans.reap()
        time.sleep(0.01)


def test_somebody_elses_child_is_left_alone() -> None:
    orphans = Orphans()
    orphans.add(1)
    orphans.reap()
    assert not orphans._ended
