"""Around every request: its id, its headers, its error, its log line, its metrics, its span."""

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.engine.base import ServedModel
from service.errors import (
    BodyTooLargeError,
    ClientGoneError,
    ClientLimitError,
    DeadlineUnreachableError,
    ImageOverLimitError,
    QueueFullError,
    ServiceError,
    ShuttingDownError,
    TooManyImagesError,
    UnauthorizedError,
    problem_response,
    service_error,
)
from service.lifecycle import Lifecycle
from service.logs import request_id, trace_id
from service.request_record import RECORD, RequestRecord
from service.telemetry import UNKNOWN_MODEL, Metrics
from service.trace_context import TraceParent, trace_parent
from service.tracing import Tracing
from service.work_paths import task_of

log = logging.getLogger(__name__)

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
_REJECTIONS: Final[Mapping[type[ServiceError], str]] = MappingProxyType(
    {
        QueueFullError: "queue_full",
        ClientLimitError: "client_limit",
        DeadlineUnreachableError: "deadline",
        ShuttingDownError: "draining",
        BodyTooLargeError: "too_large",
        TooManyImagesError: "too_large",
        ImageOverLimitError: "too_large",
        UnauthorizedError: "unauthorized",
    }
)


class AccessMiddleware:
    """Outermost layer of the service; turns every exception into a problem object.

    Args:
        models: that answer at the moment; by name a path may tell its task.
        tracing: makes a span of each request for work; None: no spans.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        lifecycle: Lifecycle,
        models: Callable[[], Sequence[ServedModel]],
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._models = models
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record, parent = _new_record(scope, self._models)
        scope[RECORD] = record
        if self._tracing is not None and record.task is not None:
            record.span = self._tracing.begin(record, parent)
            record.trace_id = record.span.trace_id
        tokens = request_id.set(record.request_id), trace_id.set(record.trace_id)
        try:
            if record.task is None:
                await self._serve(record, scope, receive, send)
            else:
                with self._lifecycle.accepted(), self._metrics.in_flight(record.task):
                    await self._serve(record, scope, receive, send)
        finally:
            self._account(record, scope)
            request_id.reset(tokens[0])
            trace_id.reset(tokens[1])

    async def _serve(
        self, record: RequestRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(record)]
            else:
                record.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as exc:
            error = service_error(exc)
            self._note_error(record, error, exc)
            if isinstance(error, ClientGoneError):
                record.status = error.status
                return
            if record.status:
                # half an answer is out: only cutting the connection tells the client
                raise
            response = problem_response(exc, instance=record.path, request_id=record.request_id)
            await response(scope, receive, send_with_headers)

    def _note_error(self, record: RequestRecord, error: ServiceError, exc: Exception) -> None:
        record.error = error.code
        if error.code == "internal":
            log.error("unexpected error", exc_info=exc)
        reason = _REJECTIONS.get(type(error))
        # a probe that hears "not ready" has not been refused any work
        if reason is not None and record.task is not None:
            self._metrics.rejected.labels(reason).inc()

    def _account(self, record: RequestRecord, scope: Scope) -> None:
        seconds = time.monotonic() - record.started
        # a task that was cancelled from outside has sent nothing
        status = record.status or ClientGoneError.status
        if record.task is not None:
            model = record.model or UNKNOWN_MODEL
            self._metrics.request_done(record.task, model, status, seconds)
        if self._tracing is not None and record.span is not None:
            self._tracing.end(record.span, record, status)
        level = logging.INFO if record.task is not None or status >= 400 else logging.DEBUG
        if log.isEnabledFor(level):
            fields = _log_fields(record, scope, status, seconds)
            # `log.log` would look for the line of code that calls it, which is always this one
            log.handle(
                log.makeRecord(log.name, level, __file__, 0, "request", (), None, extra=fields)
            )


def _headers(record: RequestRecord) -> Iterator[tuple[bytes, bytes]]:
    """What every answer carries."""
    yield b"x-request-id", record.request_id.encode()
    yield b"server-timing", record.server_timing().encode()
    yield _NO_SNIFFING
    if record.span is not None:
        yield b"traceresponse", record.span.traceresponse()


def _log_fields(record: RequestRecord, scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    return {
        "method": record.method,
        "route": getattr(scope.get("route"), "path", "unmatched"),
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "client": record.client,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "model": record.model,
        "images": record.num_images,
        "batch_size": record.batch_size,
        "error": record.error,
        "stages_ms": {k: round(s * 1000, 2) for k, s in record.stage_seconds.items()},
    }


def _new_id() -> str:
    """128 random bits, which need not be secret: asking the system for them takes much longer.

    Python seeds this generator anew in every process that is forked.
    """
    return f"{random.getrandbits(128):032x}"


def _new_record(
    scope: Scope, models: Callable[[], Sequence[ServedModel]]
) -> tuple[RequestRecord, TraceParent | None]:
    given = b""
    parents, states = [], []
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value
        elif name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    parent = trace_parent(parents, states) if parents else None
    path, client = str(scope["path"]), scope.get("client")
    record = RequestRecord(
        request_id=given.decode() if _REQUEST_ID.fullmatch(given) else _new_id(),
        method=scope["method"],
        path=path,
        started=time.monotonic(),
        task=task_of(path, models) if scope["method"] == "POST" else None,
        scheme=scope.get("scheme", "http"),
        client=None if client is None else client[0],
        trace_id=None if parent is None else parent.trace_id,
    )
    return record, parent
