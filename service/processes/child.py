"""What engine and front end processes have in common."""

import asyncio
import ctypes
import gc
import itertools
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from setproctitle import setproctitle

from service.logs import configure_logging
from service.processes.channel import connect
from service.processes.layout import CONTROL
from service.processes.peer import Content, Handler, Listener, Peer
from service.processes.wire import status_to_fields
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

# prctl.h of Linux
_SET_PARENT_DEATH_SIGNAL: Final = 1
_ORPHANED: Final = 3
# putting all counts together takes the event loop of a slow machine 10 ms
_COUNTS_EVERY: Final = 4
# Threads that copy and launch give the interpreter up for microseconds, and want it back while the
# event loop works through a batch's answers: with Python's 5 ms each such wait can cost 5 ms.
_SWITCH_S: Final = 0.00005


def begin(title: str, settings: Settings) -> None:
    """Name this process, let the supervisor decide about its end, and write logs."""
    setproctitle(title)
    sys.setswitchinterval(_SWITCH_S)
    # signals to the whole group reach the supervisor, too, which drains in order
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    configure_logging(settings.log)


class Control:
    """A child's connection to the supervisor. Without a supervisor there is nothing to do here.

    Args:
        name: e.g. `engine-0`.
    """

    def __init__(self, name: str, folder: Path, metrics: Metrics) -> None:
        self._name = name
        self._path = folder / CONTROL
        self._metrics = metrics
        self._peer: Peer | None = None

    async def connect(
        self,
        *,
        answers: Mapping[str, Handler] | None = None,
        notices: Mapping[str, Listener] | None = None,
    ) -> None:
        """Say who this is; from now on the supervisor can ask and tell.

        Raises:
            OSError: there is no supervisor.
        """
        peer = Peer(
            answers={"metrics": self._answer_metrics, **(answers or {})},
            notices=notices or {},
            on_close=_end_orphan,
        )
        await connect(self._path, peer.channel)
        peer.tell("hello", {"name": self._name, "pid": os.getpid()})
        self._peer = peer

    def tell(self, what: str, fields: Mapping[str, Any], payload: bytes = b"") -> None:
        """Tell the supervisor; see `Peer.tell`."""
        if self._peer is not None:
            self._peer.tell(what, fields, payload)

    async def ask(self, what: str, *, timeout_s: float) -> Content:
        """Ask the supervisor; see `Peer.ask`."""
        if self._peer is None:
            raise ConnectionError("not connected to the supervisor yet")
        return await self._peer.ask(what, timeout_s=timeout_s)

    async def _answer_metrics(self, fields: Mapping[str, Any], payload: bytes) -> Content:
        return {}, self._metrics.registry.snapshot()


async def report(control: Control, metrics: Metrics, engine: Any, *, every_s: float) -> None:
    """Tell the supervisor regularly how `engine` is, and now and then what has been counted.

    The counts are for the case that this process dies: for a scrape the supervisor asks.
    """
    for number in itertools.count():
        control.tell("status", status_to_fields(engine.status()))
        if number % _COUNTS_EVERY == 0:
            control.tell("metrics", {}, metrics.registry.snapshot())
        await asyncio.sleep(every_s)


def settle() -> None:
    """Spare what lives now the collector's later searches, each of which stops all threads."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _end_orphan() -> None:
    log.error("the supervisor has gone")
    logging.shutdown()
    os._exit(_ORPHANED)
