"""Around every request: its id, its headers, its error answer, one log line, its metrics."""

import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.config import TaskName
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
from service.logs import request_id
from service.telemetry import UNKNOWN_MODEL, Metrics

log = logging.getLogger(__name__)

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_RECORD: Final = "smserve.record"
TASK_PATHS: Final[Mapping[str, TaskName]] = MappingProxyType(
    {f"/{task}": task for task in TaskName} | {f"/hf/{task}": task for task in TaskName}
)
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


@dataclass(slots=True)
class RequestRecord:
    """What is known about a request; filled in while it is served.

    Attributes:
        started: `time.monotonic()` seconds.
        status: of the answer; 499 when the client left before.
        stage_seconds: read, decode, queue, infer, postprocess, encode, as far as they came.
    """

    request_id: str
    method: str
    path: str
    started: float
    task: TaskName | None
    model: str | None = None
    num_images: int = 0
    status: int = 0
    error: str | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)

    def server_timing(self) -> str:
        """Value of the `Server-Timing` header, milliseconds."""
        stages = {**self.stage_seconds, "total": time.monotonic() - self.started}
        return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in stages.items())


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request that is being served."""
    record: RequestRecord = scope[_RECORD]
    return record


class AccessMiddleware:
    """Outermost layer of the service; turns every exception into a problem object."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._app = app
        self._metrics = metrics
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = _new_record(scope)
        scope[_RECORD] = record
        token = request_id.set(record.request_id)
        try:
            if record.task is None:
                await self._serve(record, scope, receive, send)
            else:
                with (
                    self._lifecycle.accepted(),
                    self._metrics.inflight.labels(record.task).track_inprogress(),
                ):
                    await self._serve(record, scope, receive, send)
        finally:
            self._account(record, scope)
            request_id.reset(token)

    async def _serve(
        self, record: RequestRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = record.request_id
                headers["Server-Timing"] = record.server_timing()
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as exc:
            error = service_error(exc)
            self._note_error(record, error, exc)
            if record.status:
                # half an answer is out: only cutting the connection tells the client
                raise
            if isinstance(error, ClientGoneError):
                record.status = error.status
                return
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
            self._metrics.requests.labels(record.task, model, str(status)).inc()
            self._metrics.request_duration.labels(record.task, model).observe(seconds)
        route = getattr(scope.get("route"), "path", "unmatched")
        level = logging.INFO if record.task is not None or status >= 400 else logging.DEBUG
        log.log(
            level,
            "request",
            extra={
                "method": record.method,
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 2),
                "model": record.model,
                "images": record.num_images,
                "error": record.error,
                "stages_ms": {k: round(s * 1000, 2) for k, s in record.stage_seconds.items()},
            },
        )


def _new_record(scope: Scope) -> RequestRecord:
    given = Headers(scope=scope).get("x-request-id", "")
    path = str(scope["path"])
    return RequestRecord(
        request_id=given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
        method=scope["method"],
        path=path,
        started=time.monotonic(),
        task=TASK_PATHS.get(path) if scope["method"] == "POST" else None,
    )
