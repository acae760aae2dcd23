"""The process: uvicorn, and what signals mean."""

import asyncio
import ctypes
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

import uvicorn

from service.app import create_app
from service.context import ServiceContext
from service.lifecycle import Phase
from service.logs import configure_logging
from service.settings import Settings, SettingsError
from service.slow_readers import timed_protocol

log = logging.getLogger(__name__)

# malloc.h of glibc
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MIB: Final = 1 << 20
# a forward pass of the largest model has fewer distinct operations than this
_ONEDNN_CACHE: Final = "128"
_FAST_PARTS: Final = ("uvloop", "httptools")


def run(settings: Settings) -> int:
    """Serve until a signal or a failure.

    SIGTERM: not ready, still accepting for the grace time; then new work is refused and accepted
    work is finished; exit 0. SIGINT: the same without the grace time. Either one again: at once.

    Returns:
        the process's exit status; 0 after a drain, 1 when the engine or the socket failed.

    Raises:
        SettingsError: a part that the service needs is not installed.
    """
    missing = [name for name in _FAST_PARTS if find_spec(name) is None]
    if missing:
        raise SettingsError(f"{', '.join(missing)} not installed; install uvicorn[standard]")
    configure_logging(settings.log)
    _bound_memory()
    app = create_app(settings)
    context: ServiceContext = app.state.context
    server = DrainingServer(_uvicorn_config(app, settings), context)
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


def _bound_memory() -> None:
    """Keep what pictures of ever new sizes leave behind small; before torch is imported.

    - oneDNN keeps compiled code and buffers for each (operation, shape), 1024 by default. Every
      size of picture adds its own, over hundreds of MiB. An operator's own choice stands.
    - Two heaps for all threads, so that one reuses what another has freed. Otherwise every thread
      keeps the memory of the largest picture it has ever seen.
    - Blocks from 4 MiB on go back to the system when they are freed. Otherwise glibc raises this
      limit to 32 MiB by itself, and tensors of ever new sizes tear holes into the heaps. The
      price is some throughput under load (docs/decisions/0005).

    Other C libraries than glibc do not know these calls, nor need them.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _ONEDNN_CACHE)  # noqa: TID251 - for oneDNN
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, 4 * _MIB)
        mallopt(_M_TRIM_THRESHOLD, 64 * _MIB)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _uvicorn_config(app: object, settings: Settings) -> uvicorn.Config:
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
            log.info("listening", extra={"url": f"http://{_in_url(self.config.host)}:{port}"})

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
        grace_s = self._shutdown.grace_s if number is signal.SIGTERM else 0.0
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
