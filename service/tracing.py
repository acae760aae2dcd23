"""Spans for OpenTelemetry: one for each request for work, and one for each of its stages.

They are made from times that are measured anyway. Without `tracing.endpoint` nothing of this is
loaded, and no request comes here.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from service.request_record import RequestRecord, RequestSpan
from service.setting_groups import TracingSettings
from service.settings import SettingsError
from service.telemetry import DISTRIBUTION, service_version
from service.trace_context import TraceParent

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer


_FLUSH_S: Final = 5.0
_NANOSECONDS: Final = 1_000_000_000


class Tracing:
    """Makes spans and sends them away, in a thread of its own.

    Args:
        provider: of OpenTelemetry's SDK; closed with this object.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer(DISTRIBUTION, service_version())

    def begin(self, record: RequestRecord, parent: TraceParent | None) -> RequestSpan:
        """The request starts now."""
        from opentelemetry.trace import SpanKind

        started_ns = time.time_ns()
        span = self._tracer.start_span(
            f"{record.method} {record.path}",
            context=None if parent is None else _remote(parent),
            kind=SpanKind.SERVER,
            start_time=started_ns,
            attributes={
                "http.request.method": record.method,
                "http.route": record.path,
                "url.path": record.path,
                "url.scheme": record.scheme,
                "smserve.request_id": record.request_id,
                "smserve.task": str(record.task),
                **({} if record.client is None else {"client.address": record.client}),
            },
        )
        return RequestSpan(span, started_ns)

    def end(self, request: RequestSpan, record: RequestRecord, status: int) -> None:
        """The request ends now, with this HTTP status."""
        ended_ns = time.time_ns()
        if request.span.is_recording():
            self._add_stages(request, record, ended_ns)
            request.span.set_attributes(_attributes(record, status))
            if status >= 500:
                from opentelemetry.trace import StatusCode

                request.span.set_status(StatusCode.ERROR)
        request.span.end(ended_ns)

    def _add_stages(self, request: RequestSpan, record: RequestRecord, ended_ns: int) -> None:
        """One after the other, as they came; of several images the slowest of each stage."""
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(request.span)
        begin = request.started_ns
        for stage, seconds in record.stage_seconds.items():
            end = min(begin + int(seconds * _NANOSECONDS), ended_ns)
            self._tracer.start_span(stage, context=context, start_time=begin).end(end)
            begin = end

    def close(self) -> None:
        """Send what waits, for some seconds at most; blocks."""
        self._provider.force_flush(int(_FLUSH_S * 1000))
        self._provider.shutdown()


def _remote(parent: TraceParent) -> "Context":
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        TraceState,
        set_span_in_context,
    )

    span = SpanContext(
        trace_id=int(parent.trace_id, 16),
        span_id=int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(parent.is_sampled)),
        trace_state=TraceState.from_header([parent.state]),
    )
    return set_span_in_context(NonRecordingSpan(span))


def _attributes(record: RequestRecord, status: int) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.response.status_code": status,
        "http.request.body.size": record.bytes_in,
        "http.response.body.size": record.bytes_out,
        "smserve.images": record.num_images,
        "smserve.batch_size": record.batch_size,
        "smserve.model": record.model,
    }
    if record.error is not None:
        attributes["error.type"] = record.error
    return {name: value for name, value in attributes.items() if value is not None}


def open_tracing(
    settings: TracingSettings, *, make_exporter: "Callable[[str], SpanExporter] | None" = None
) -> Tracing | None:
    """Spans to the collector of the settings; None when they name none.

    Args:
        make_exporter: called with the endpoint; OTLP over HTTP if None.

    Raises:
        SettingsError: the extra `tracing` is not installed.
    """
    if settings.endpoint is None:
        return None
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        exporter = (make_exporter or _otlp_exporter)(settings.endpoint)
    except ImportError as exc:
        raise SettingsError(
            f"tracing.endpoint is set, but {exc.name or 'OpenTelemetry'} is not installed; "
            f"pip install '{DISTRIBUTION}[tracing]'"
        ) from exc
    provider = TracerProvider(
        resource=Resource.create(
            {"service.name": "smserve", "service.version": service_version()}
        ).merge(
            # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES of the environment come first
            OTELResourceDetector().detect()
        ),
        sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
        # closed by the service, in its own order
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


def _otlp_exporter(endpoint: str) -> "SpanExporter":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint, timeout=_FLUSH_S)
