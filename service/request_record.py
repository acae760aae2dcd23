"""What is known about a request while it is served."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from starlette.types import Scope

from model.config import TaskName

if TYPE_CHECKING:
    from opentelemetry.trace import Span

# where a request's scope holds its record
RECORD: Final = "smserve.record"


class RequestSpan:
    """The span of a request that is being served."""

    def __init__(self, span: "Span", started_ns: int) -> None:
        self.span = span
        self.started_ns = started_ns
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self._span_id = f"{context.span_id:016x}"
        self._flags = context.trace_flags

    def traceresponse(self) -> bytes:
        """Value of the header that tells the client where to find its request."""
        return f"00-{self.trace_id}-{self._span_id}-{self._flags:02x}".encode()


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """What is known about a request; filled in while it is served.

    Attributes:
        started: `time.monotonic()` seconds.
        client: address of the other end of the connection, which may be a proxy.
        key_digest: of the API key it came with; empty without one.
        trace_id: of the client's trace or, when this service makes spans, of its own.
        bytes_in: of the body, as far as it was read.
        bytes_out: of the answer's body.
        batch_size: images that shared a run of the device, of several pictures the most.
        status: of the answer; 499 when the client left before.
        stage_seconds: read, decode, queue, infer, postprocess, encode, as far as they came.
    """

    request_id: str
    method: str
    path: str
    started: float
    task: TaskName | None
    scheme: str = "http"
    client: str | None = None
    key_digest: str = ""
    trace_id: str | None = None
    model: str | None = None
    num_images: int = 0
    batch_size: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    status: int = 0
    error: str | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)
    span: RequestSpan | None = None

    def server_timing(self) -> str:
        """Value of the `Server-Timing` header, milliseconds."""
        stages = [f"{name};dur={s * 1000:.2f}" for name, s in self.stage_seconds.items()]
        total = time.monotonic() - self.started
        return ", ".join([*stages, f"total;dur={total * 1000:.2f}"])


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request that is being served."""
    record: RequestRecord = scope[RECORD]
    return record
