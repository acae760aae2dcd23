"""The endpoint for operators: on the loopback address only, never on the public port.

Whoever may open a connection there may use it. A page in the operator's browser could do so, too:
so requests that a browser sends for a page, and those that name another host, are refused.
"""

import asyncio
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from model.config import TaskName
from service.errors import (
    ForeignRequestError,
    InvalidParameterError,
    ReloadFailedError,
    ReloadRefusedError,
    ServiceError,
    problem_response,
)
from service.setting_groups import AdminSettings
from service.settings import SettingsError

log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """What a reload has done to one model.

    Attributes:
        sha256: of the file that is served now; None when the model is gone or has no file.
        previous_sha256: of the file before; None when the model is new or has no file.
    """

    name: str
    task: TaskName
    change: Literal["new", "changed", "gone"]
    sha256: str | None
    previous_sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadReport:
    """What a reload has done.

    Attributes:
        changes: empty when the files were those that are served already.
        seconds: it took, with the warm-up.
    """

    changes: tuple[ModelChange, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReport:
    """How one process is.

    Attributes:
        name: e.g. `engine-0`, `front-1`; `service` where one process does everything.
        state: e.g. of its engine.
        since: it was started, seconds since 1970.
        num_restarts: of processes of this name.
        detail: for people.
    """

    name: str
    state: str
    pid: int
    since: float
    num_restarts: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """Which model is served.

    Attributes:
        sha256: of its file; None when there is none.
        since: it has been served, seconds since 1970.
    """

    name: str
    task: TaskName
    sha256: str | None
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """How the whole service is."""

    processes: tuple[ProcessReport, ...]
    models: tuple[ModelReport, ...]


class Administration(Protocol):
    """What operators can do to a running service."""

    async def reload(self, model: str | None) -> ReloadReport:
        """Load what is new in the folder of models, warm it up, and only then serve it.

        Args:
            model: this one alone; None: all of them.

        Raises:
            ModelNotFoundError: no such model.
            ReloadRefusedError: not now, e.g. while starting or draining.
            Exception: whatever made a model unusable; what was served before is served on.
        """
        ...

    async def status(self) -> ServiceReport: ...


def create_admin_app(administration: Administration) -> ASGIApp:
    """`POST /reload[?model=name]` and `GET /status`; errors are problem objects."""
    reloading = asyncio.Lock()

    async def reload(request: Request) -> Response:
        unknown = request.query_params.keys() - {"model"}
        if unknown:
            raise InvalidParameterError(f"unknown query parameter {min(unknown)[:60]!r}")
        if reloading.locked():
            raise ReloadRefusedError("a reload is under way")
        async with reloading:
            return _json(await _reload(administration, request.query_params.get("model")))

    async def status(request: Request) -> Response:
        return _json(await administration.status())

    routes = [Route("/reload", reload, methods=["POST"]), Route("/status", status)]
    handlers = dict.fromkeys((ServiceError, HTTPException, Exception), _answer_problem)
    return _LoopbackOnly(Starlette(routes=routes, exception_handlers=handlers))


async def _reload(administration: Administration, model: str | None) -> ReloadReport:
    log.info("reload", extra={"model": model})
    started = time.monotonic()
    try:
        report = await administration.reload(model)
    except ServiceError as exc:
        log.warning("reload refused", extra={"model": model, "reason": str(exc)})
        raise
    except Exception as exc:
        log.exception("reload failed", extra={"model": model})
        raise ReloadFailedError(f"{type(exc).__name__}: {exc}") from exc
    changes = {change.name: change.change for change in report.changes}
    seconds = round(time.monotonic() - started, 2)
    log.info("reloaded", extra={"changes": changes, "seconds": seconds})
    return report


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _answer_problem(request: Request, exc: Exception) -> Response:
    return problem_response(exc, instance=request.scope["path"], request_id=uuid.uuid4().hex)


class _LoopbackOnly:
    """Refuses what a page in a browser could send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            _refuse_foreigners(Headers(scope=scope))
        except ForeignRequestError as exc:
            await _answer_problem(Request(scope), exc)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _refuse_foreigners(headers: Headers) -> None:
    hosts = headers.getlist("host")
    if len(hosts) != 1 or _without_port(hosts[0]) not in _LOOPBACK_NAMES:
        # a name of an attacker that resolves to this machine
        raise ForeignRequestError("the Host header must be localhost or a loopback address")
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        raise ForeignRequestError("requests of web pages are refused")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


class _QuietServer(uvicorn.Server):
    """Uvicorn beside another one, which takes the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def admin_endpoint(
    settings: AdminSettings, administration: Administration
) -> AsyncIterator[int | None]:
    """Serve operators inside the `with`; gives the port, or None when the settings name none.

    Raises:
        SettingsError: the port cannot be opened.
    """
    if settings.port is None:
        yield None
        return
    with _listen(settings.port) as listener:
        port: int = listener.getsockname()[1]
        server = _QuietServer(_config(create_admin_app(administration)))
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="admin")
        log.info("administration", extra={"url": f"http://{LOOPBACK}:{port}"})
        try:
            yield port
        finally:
            server.should_exit = True
            await asyncio.wait([serving])


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # always here, whatever `host` the service itself listens on
        listener.bind((LOOPBACK, port))
        # connections that come before the server is up wait here
        listener.listen()
    except OSError as exc:
        listener.close()
        raise SettingsError(f"admin.port {port} cannot be opened: {exc.strerror}") from exc
    return listener


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
