"""A replica of the service on a Ray cluster: one process, one device, our own batcher."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from ray import serve
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.context import ServiceContext
from service.engine.base import EngineState
from service.errors import EngineUnavailableError
from service.logs import configure_logging
from service.memory import bound_memory
from service.ray_serve.metrics_hub import ReplicaReporter
from service.routes.status import refuse_when_dead
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

_POLL_S: Final = 0.05
# for what waits when the engine is lost: time to hear so, and for Ray to pass it on
_ANSWERS_S: Final = 2.0
_PASSED_ON_S: Final = 0.5
_REQUEST_ID: Final = b"x-request-id"


class ReplicaStartError(RuntimeError):
    """The engine cannot serve; the message is shown by `serve status`."""


class Replica:
    """What Ray makes in a process of its own; all methods run on the event loop that serves.

    It counts as started when the engine is ready. It is healthy while `/livez` says so; when it is
    not any more, it answers whoever waits with 503 and ends its process, which Ray replaces.

    Args:
        settings: of this process; it reads no others.
    """

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log)
        bound_memory()
        metrics = Metrics()
        self._reporter = ReplicaReporter(serve.get_replica_context().replica_tag, metrics)
        self._app = create_app(settings, metrics=metrics, scrape=self._reporter.scrape)
        self._context: ServiceContext = self._app.state.context
        self._leaving: asyncio.Task[None] | None = None
        self._lifespan = AsyncExitStack()

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Asked by Ray once, as a part of the start.

        Raises:
            ReplicaStartError: the engine cannot serve.
        """
        await self._lifespan.enter_async_context(self._app.router.lifespan_context(self._app))
        try:
            await self._ready()
        except BaseException:
            await self._lifespan.aclose()
            raise
        self._context.lifecycle.call_on_failure(self._leave)
        self._reporter.start()
        return ReplicaApp(self._app, self._close)

    async def check_health(self) -> None:
        """Asked by Ray every few seconds.

        Raises:
            EngineUnavailableError: the engine has failed, or its device is silent for too long.
        """
        try:
            refuse_when_dead(self._context)
        except EngineUnavailableError:
            self._leave()
            raise

    async def _ready(self) -> None:
        # the engine has no event for this: probes poll it, too
        while (status := self._context.engine.status()).state is EngineState.STARTING:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        if status.state is not EngineState.READY:
            raise ReplicaStartError(status.detail)

    async def _close(self) -> None:
        """After Ray has waited for the requests."""
        await self._reporter.stop()
        await self._lifespan.aclose()

    def _leave(self) -> None:
        if self._leaving is None:
            self._leaving = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        """As the process of a plain service ends when its engine is lost: with status 1."""
        log.critical("this replica ends", extra={"reason": self._context.engine.status().detail})
        self._context.lifecycle.close()
        try:
            async with asyncio.timeout(_ANSWERS_S):
                await self._context.engine.stop(timeout_s=0)
                await self._context.lifecycle.drained(timeout_s=_ANSWERS_S)
            await asyncio.sleep(_PASSED_ON_S)
        except TimeoutError:
            log.warning("requests left", extra={"requests": self._context.lifecycle.num_accepted})
        finally:
            logging.shutdown()
            # the device's thread may be inside a computation that nobody can interrupt
            os._exit(1)


class ReplicaApp:
    """The application as Ray calls it: its start is over already, and Ray names the request.

    Attributes:
        routes: by which Ray labels its own metrics.
        router: the same.
    """

    def __init__(self, app: Starlette, close: Callable[[], Awaitable[Any]]) -> None:
        self._app, self._close = app, close
        self.routes, self.router = app.routes, app.router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._app(scope, receive, _named_once(scope, send))

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._close()
        await send({"type": "lifespan.shutdown.complete"})


def _named_once(scope: Scope, send: Send) -> Send:
    """Ray gives every request an id and puts it into the answer: ours is the same."""
    name = (_REQUEST_ID, dict(scope.get("headers", ())).get(_REQUEST_ID, b""))

    async def send_once(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(bytes(key), bytes(value)) for key, value in message.get("headers", ())]
            message["headers"] = [one for one in headers if one != name]
        await send(message)

    return send_once
