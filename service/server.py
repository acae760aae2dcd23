"""The process: uvicorn, and what signals mean."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.app import create_app
from service.context import ServiceContext
from service.lifecycle import Phase
from service.logs import configure_logging
from service.memory import bound_memory
from service.settings import Settings
from service.slow_readers import timed_protocol

log = logging.getLogger(__name__)


def run_alone(settings: Settings) -> int:
    """Serve with one process; see `service.start.run`."""
    configure_logging(settings.log)
    bound_memory()
    app = create_app(settings)
    context: ServiceContext = app.state.context
    server = DrainingServer(uvicorn_config(app, settings), context)
    try:
        server.run()
    except SystemExit as exc:
        # uvicorn leaves this way when it cannot bind its socket
        log.error("the server did not start", extra={"host": settings.host, "port": settings.port})
        return int(exc.code or 1)
    if context.lifecycle.failure is not None or not server.started:
        return 1
    log.info("stopped")
    return 0


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def uvicorn_config(app: object, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=timed_protocol(settings.timeouts.send_ms / 1000),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.timeouts.keep_alive_s,
        # accepted work has been finished before; this is for answers still being written
        timeout_graceful_shutdown=5,
    )


class DrainingServer(uvicorn.Server):
    """Uvicorn with our meaning of signals."""

    def __init__(self, config: uvicorn.Config, context: ServiceContext) -> None:
        super().__init__(config)
        self._engine = context.engine
        self._lifecycle = context.lifecycle
        self._shutdown = context.settings.shutdown
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the socket, and say where."""
        await super().startup(sockets)
        if self.started:
            # port 0 means any free one: the socket knows which
            port = self.servers[0].sockets[0].getsockname()[1]
            log.info("listening", extra={"url": f"http://{in_url(self.config.host)}:{port}"})

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replace uvicorn's handlers, which would end the process by the signal itself."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        self._lifecycle.call_on_failure(self._on_failure)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._draining is not None:
            log.warning("stopped at once", extra={"signal": number.name})
            logging.shutdown()
            # threads may be inside a computation that nobody can interrupt
            os._exit(128 + number)
        self.drain(self._shutdown.grace_s if number is signal.SIGTERM else 0.0)

    def drain(self, grace_s: float) -> None:
        """Not ready from now on; after the grace time finish accepted work, then end."""
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain(grace_s))

    async def _drain(self, grace_s: float) -> None:
        self._lifecycle.begin_closing()
        await asyncio.sleep(grace_s)
        self._lifecycle.close()
        if not await self._lifecycle.drained(timeout_s=self._shutdown.drain_timeout_s):
            left = self._lifecycle.num_accepted
            log.warning("drain timed out", extra={"requests": left})
            # answers what is left with 503, while there is still somebody to write it
            await self._engine.stop(timeout_s=0)
        self.should_exit = True

    def _on_failure(self) -> None:
        if self._lifecycle.phase is not Phase.CLOSED:
            self._lifecycle.close()
        self.should_exit = True
