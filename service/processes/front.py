"""A front end process: HTTP, decoding, answers; no device."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn

from service.app import create_app
from service.context import ServiceContext
from service.engine.base import Engine
from service.errors import NotReadyError
from service.lifecycle import Lifecycle
from service.memory import bound_memory
from service.pool import CpuPool
from service.processes.channel import ChannelClosedError
from service.processes.child import Control, begin, report, settle
from service.processes.layout import Layout, engine_socket
from service.processes.remote import RemoteEngine
from service.server import DrainingServer, uvicorn_config
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

_REPORT_S: Final = 0.5
_SCRAPE_S: Final = 5.0
# the others decode as well; more threads in one process wait for its interpreter lock
_POOL_SIZE: Final = 2
# Engines go first: where all processors decode, a device thread that is done waiting for its GPU
# would else wait for a processor, and the GPU with it.
_NICENESS: Final = 5


def run_front(
    index: int, layout: Layout, settings: Settings, folder: Path, listener: socket.socket
) -> None:
    """The whole life of the process; it ends by the supervisor's word.

    Args:
        folder: where the sockets of engines and supervisor are.
        listener: for HTTP; the supervisor keeps it open when this process dies.
    """
    begin(f"smserve-front[{index}]", settings)
    bound_memory()
    os.nice(_NICENESS)
    metrics = Metrics()
    control = Control(f"front-{index}", folder, metrics)
    sockets = [engine_socket(folder, number) for number in range(layout.engines)]

    def open_engine(
        settings: Settings, pool: CpuPool, metrics: Metrics, lifecycle: Lifecycle
    ) -> Engine:
        return RemoteEngine(settings, pool, metrics, sockets=sockets, num_fronts=layout.fronts)

    async def scrape() -> tuple[bytes, str]:
        try:
            fields, content = await control.ask("scrape", timeout_s=_SCRAPE_S)
        except (TimeoutError, ChannelClosedError) as exc:
            raise NotReadyError("the supervisor does not answer", retry_after_s=1) from exc
        return content, fields["media_type"]

    if settings.pool_size is None:
        settings = settings.model_copy(update={"pool_size": _POOL_SIZE})
    app = create_app(settings, open_engine=open_engine, metrics=metrics, scrape=scrape)
    server = FrontServer(uvicorn_config(app, settings), app.state.context, control)
    server.run(sockets=[listener])
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0 if server.started else 1)


class FrontServer(DrainingServer):
    """Takes the supervisor's word instead of signals."""

    def __init__(self, config: uvicorn.Config, context: ServiceContext, control: Control) -> None:
        super().__init__(config, context)
        self._context = context
        self._control = control
        self._reporting: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Connect to the supervisor, then open for requests."""
        await self._control.connect(notices={"drain": self._on_drain})
        context = self._context
        self._reporting = asyncio.create_task(
            report(self._control, context.metrics, context.engine, every_s=_REPORT_S)
        )
        await uvicorn.Server.startup(self, sockets)
        settle()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close; the last counts go to the supervisor."""
        await super().shutdown(sockets)
        self._control.tell("metrics", {}, self._context.metrics.registry.snapshot())

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: `begin` has had them ignored."""
        yield

    def _on_drain(self, fields: Mapping[str, Any], payload: bytes) -> None:
        self.drain(fields["grace_s"])
