"""The parent of all processes: starts them, restarts them, and ends them in order."""

import asyncio
import logging
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from setproctitle import setproctitle

from service.admin import admin_endpoint
from service.errors import EngineUnavailableError
from service.logs import configure_logging
from service.metrics_hub import MetricsHub
from service.processes.administration import ChildrenAdministration
from service.processes.children import (
    Child,
    Kind,
    Orphans,
    Restarts,
    start_engine,
    start_front,
)
from service.processes.layout import CONTROL, Layout
from service.processes.listeners import open_listeners
from service.processes.peer import Content, Peer
from service.setting_groups import ShutdownSettings
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

_WATCH_S: Final = 0.5
# 503 to those who waited for what will not come back
_LAST_ANSWERS_S: Final = 2.0
_SNAPSHOT_S: Final = 2.0
# engines have nothing left to do by then
_ENGINE_STOP_S: Final = 5.0
_MORE_THAN_DRAIN_S: Final = 10.0


def longest_shutdown_s(shutdown: ShutdownSettings) -> float:
    """Seconds from SIGTERM to the end at the latest; who sends SIGKILL should wait longer."""
    return shutdown.grace_s + shutdown.drain_timeout_s + _MORE_THAN_DRAIN_S + _ENGINE_STOP_S


def run_supervisor(settings: Settings, layout: Layout) -> int:
    """Serve with several processes until a signal or a failure.

    Returns:
        the exit status; see `service.start.run`.
    """
    setproctitle("smserve-supervisor")
    configure_logging(settings.log)
    folder = Path(tempfile.mkdtemp(prefix="smserve-"))
    try:
        status = asyncio.run(_Supervisor(settings, layout, folder).run())
    except OSError as exc:
        log.error(
            "the server did not start",
            extra={"host": settings.host, "port": settings.port, "reason": str(exc)},
        )
        status = 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if status == 0:
        log.info("stopped")
    return status


class _Supervisor:
    def __init__(self, settings: Settings, layout: Layout, folder: Path) -> None:
        self._settings = settings
        self._layout = layout
        self._folder = folder
        self._listeners, self._url = open_listeners(settings.host, settings.port, layout.fronts)
        self._metrics = Metrics()
        self._hub = MetricsHub()
        self._restarts = Restarts(settings.processes)
        self._children: dict[str, Child] = {}
        self._orphans = Orphans()
        self._ended: asyncio.Future[int] | None = None
        self._draining: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Serve -> the exit status."""
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        control = await loop.create_unix_server(self._accept, str(self._folder / CONTROL))
        watching = asyncio.create_task(self._watch(), name="watch")
        administration = ChildrenAdministration(self._living, self._restarts.number)
        try:
            async with admin_endpoint(self._settings.admin, administration):
                for index in range(self._layout.engines):
                    self._start(Kind.ENGINE, index)
                for index in range(self._layout.fronts):
                    self._start(Kind.FRONT, index)
                log.info("listening", extra={"url": self._url})
                return await self._ended
        finally:
            watching.cancel()
            for child in self._children.values():
                child.kill()
            control.close()
            for listener in self._listeners:
                listener.close()

    def _start(self, kind: Kind, index: int) -> None:
        if kind is Kind.ENGINE:
            process = start_engine(index, self._layout, self._settings, self._folder)
        else:
            process = start_front(
                index, self._layout, self._settings, self._folder, self._listeners[index]
            )
        child = Child(kind, index, process)
        self._children[child.name] = child
        loop = asyncio.get_running_loop()
        loop.add_reader(process.sentinel, self._on_exit, child)
        self._count_living()
        log.info("process started", extra={"child": child.name, "pid": process.pid})

    def _on_exit(self, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(child.process.sentinel)
        status = child.reap()
        if child.kind is Kind.FRONT and child.process.pid is not None:
            self._orphans.add(child.process.pid)
        self._hub.gone(child.name)
        self._count_living()
        if self._draining is not None or self._ended is None or self._ended.done():
            return
        reason = child.reason(status)
        log.error("process ended", extra={"child": child.name, "reason": reason})
        if not child.was_ready and child.kind is Kind.ENGINE and status > 0:
            # what keeps a model from loading will keep it from loading again
            self._give_up(f"{child.name} could not start")
        elif not self._restarts.allow(child.name):
            self._give_up(f"{child.name} ended too often")
        else:
            self._metrics.restarts.labels(child.kind.value, reason).inc()
            self._start(child.kind, child.index)

    def _give_up(self, reason: str) -> None:
        """End with an error, once the front ends have answered everybody who waits."""

        async def end() -> None:
            await self._end_all(Kind.FRONT, "drain", {"grace_s": 0.0}, _LAST_ANSWERS_S)
            self._end(1, reason)

        self._draining = asyncio.ensure_future(end())

    def _living(self) -> list[Child]:
        return [child for child in self._children.values() if child.is_alive]

    def _count_living(self) -> None:
        for kind in Kind:
            living = sum(own.kind is kind for own in self._living())
            self._metrics.processes.labels(kind.value).set(living)

    def _accept(self) -> asyncio.BaseProtocol:
        """A process connects; who it is it says itself."""
        found: list[Child] = []

        def hello(fields: Mapping[str, Any], payload: bytes) -> None:
            child = self._children[fields["name"]]
            child.peer = peer
            found.append(child)

        def note_status(fields: Mapping[str, Any], payload: bytes) -> None:
            found[0].note(fields)

        def note_metrics(fields: Mapping[str, Any], payload: bytes) -> None:
            self._hub.update(found[0].name, payload)

        peer = Peer(
            answers={"scrape": self._answer_scrape},
            notices={"hello": hello, "status": note_status, "metrics": note_metrics},
            on_close=lambda: None,
        )
        return peer.channel

    async def _answer_scrape(self, fields: Mapping[str, Any], payload: bytes) -> Content:
        await asyncio.gather(*map(self._refresh, self._living()))
        self._hub.update("supervisor", self._metrics.registry.snapshot())
        content, media_type = self._hub.exposition()
        return {"media_type": media_type}, content

    async def _refresh(self, child: Child) -> None:
        if child.peer is None:
            return
        try:
            _, snapshot = await child.peer.ask("metrics", timeout_s=_SNAPSHOT_S)
        except (ConnectionError, TimeoutError, EngineUnavailableError):
            # what it said last counts
            return
        self._hub.update(child.name, snapshot)

    async def _watch(self) -> None:
        """Replace engines whose device, or whose event loop, has been silent for too long."""
        limit = self._settings.timeouts.heartbeat_s
        while True:
            await asyncio.sleep(_WATCH_S)
            self._orphans.reap()
            for child in self._living():
                if child.hangs_for(limit):
                    log.error("process hangs", extra={"child": child.name, "silent_s": limit})
                    child.hangs = True
                    child.kill()

    def _on_signal(self, number: signal.Signals) -> None:
        if self._draining is not None:
            log.warning("stopped at once", extra={"signal": number.name})
            self._end(128 + number, "second signal")
            return
        grace_s = self._settings.shutdown.grace_s if number is signal.SIGTERM else 0.0
        self._draining = asyncio.ensure_future(self._drain(grace_s))

    async def _drain(self, grace_s: float) -> None:
        log.info("closing: not ready, still accepting", extra={"grace_s": grace_s})
        self._metrics.draining.set(1)
        drain_s = grace_s + self._settings.shutdown.drain_timeout_s + _MORE_THAN_DRAIN_S
        await self._end_all(Kind.FRONT, "drain", {"grace_s": grace_s}, drain_s)
        await self._end_all(Kind.ENGINE, "stop", {}, _ENGINE_STOP_S)
        self._end(0, "drained")

    async def _end_all(
        self, kind: Kind, what: str, fields: Mapping[str, Any], timeout_s: float
    ) -> None:
        children = [own for own in self._living() if own.kind is kind]
        for child in children:
            if child.peer is None:
                # it has not even connected: there is nothing to finish
                child.kill()
            else:
                child.peer.tell(what, fields)
        waiting = [asyncio.create_task(child.ended.wait()) for child in children]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=timeout_s)
            for task in late:
                task.cancel()
        for child in children:
            if child.is_alive:
                log.warning("process did not end in time", extra={"child": child.name})
                child.kill()

    def _end(self, status: int, reason: str) -> None:
        if self._ended is not None and not self._ended.done():
            level = logging.INFO if status == 0 else logging.CRITICAL
            log.log(level, "the service ends", extra={"reason": reason, "status": status})
            self._ended.set_result(status)
