"""Processes as their parent sees them."""

import asyncio
import multiprocessing
import os
import signal
import socket
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from enum import StrEnum
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from service.engine.base import EngineState
from service.processes.engine import run_engine
from service.processes.front import run_front
from service.processes.layout import Layout
from service.processes.peer import Peer
from service.processes.wire import status_from_fields
from service.setting_groups import ProcessSettings
from service.settings import Settings

# engines start afresh: CUDA does not survive a fork
_SPAWN: Final = multiprocessing.get_context("spawn")
# front ends are forked from a process that has imported everything, in milliseconds
_FORK_SERVER: Final = multiprocessing.get_context("forkserver")

# to import everything, on a slow disk
_IMPORT_S: Final = 120.0


class Kind(StrEnum):
    """What a process does."""

    ENGINE = "engine"
    FRONT = "front"


def start_engine(index: int, layout: Layout, settings: Settings, folder: Path) -> BaseProcess:
    """An engine process."""
    process = _SPAWN.Process(
        target=run_engine,
        args=(index, layout.gpu_of(index), settings, folder),
        name=f"engine-{index}",
        daemon=True,
    )
    process.start()
    return process


def start_front(
    index: int, layout: Layout, settings: Settings, folder: Path, listener: socket.socket
) -> BaseProcess:
    """A front end process."""
    _FORK_SERVER.set_forkserver_preload(["service.processes.front"])
    process = _FORK_SERVER.Process(
        target=run_front,
        args=(index, layout, settings, folder, listener),
        name=f"front-{index}",
        daemon=True,
    )
    process.start()
    return process


class Child:
    """One process.

    Attributes:
        peer: to ask and tell it; None before it has connected.
        was_ready: it has been READY at some time.
        hangs: it was ended because it was silent.
        ended: set when it has.
        since: it was started, seconds since 1970.
        state: as it last said.
        detail: for people.
    """

    def __init__(self, kind: Kind, index: int, process: BaseProcess) -> None:
        self.kind = kind
        self.index = index
        self.process = process
        self.peer: Peer | None = None
        self.was_ready = False
        self.hangs = False
        self.ended = asyncio.Event()
        self.since = time.time()
        self.state, self.detail = "starting", "it has not reported yet"
        self._beat_before_s = 0.0
        self._heard_at = time.monotonic()

    @property
    def name(self) -> str:
        """E.g. `engine-0`."""
        return f"{self.kind}-{self.index}"

    @property
    def is_alive(self) -> bool:
        """It has not ended, as far as is known."""
        return not self.ended.is_set()

    def note(self, fields: Mapping[str, Any]) -> None:
        """It has said how it is."""
        status = status_from_fields(fields)
        self.state, self.detail = status.state.value, status.detail
        self._heard_at = time.monotonic()
        if status.state is EngineState.READY:
            self.was_ready = True
            # of a front end it would be the engine's
            self._beat_before_s = status.heartbeat_age_s if self.kind is Kind.ENGINE else 0.0

    def hangs_for(self, limit_s: float) -> bool:
        """Whether its event loop, or the device of an engine, is silent for too long."""
        unheard_s = time.monotonic() - self._heard_at
        if self.peer is None:
            return unheard_s > max(limit_s, _IMPORT_S)
        return self._beat_before_s + unheard_s > limit_s

    def reap(self) -> int:
        """Take note of the end -> the exit status, negative for a signal."""
        self.process.join()
        self.ended.set()
        return self.process.exitcode or 0

    def reason(self, status: int) -> str:
        """Why it ended, as a label."""
        if self.hangs:
            return "silent"
        return "killed" if status in (-signal.SIGKILL, -signal.SIGTERM) else "exited"

    def kill(self) -> None:
        """End it at once."""
        if self.is_alive:
            self.process.kill()


class Orphans:
    """Front ends that have ended, children of the process that forks them.

    If that one ends before them, the first process of a container, which may be this one, becomes
    their parent: until it takes note of their end they stay as zombies.
    """

    def __init__(self) -> None:
        self._ended: set[int] = set()

    def add(self, pid: int) -> None:
        """It has ended, or is about to."""
        self._ended.add(pid)

    def reap(self) -> None:
        """Take note of those that are children of this process now."""
        for pid in list(self._ended):
            try:
                found, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                found = pid  # somebody else's
            if found:
                self._ended.discard(pid)


class Restarts:
    """How often each process may be started again."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        self._times: dict[str, deque[float]] = defaultdict(deque)

    def allow(self, name: str) -> bool:
        """Count one restart; False when it is one too many."""
        now, times = time.monotonic(), self._times[name]
        times.append(now)
        while now - times[0] > self._settings.restart_window_s:
            times.popleft()
        return len(times) <= self._settings.max_restarts

    def number(self, name: str) -> int:
        """Restarts of a process within the window, as of its last one."""
        return len(self._times[name])
