"""Spans: made of what was measured, tied to the client's trace, sent as OTLP."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import orjson
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra `tracing` is not installed")
pytest.importorskip("opentelemetry.proto", reason="the extra `tracing` is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service import app as app_module
from service.setting_groups import TracingSettings
from service.settings import SettingsError
from service.trace_context import TraceParent, trace_parent
from service.tracing import Tracing, open_tracing
from tests.service.conftest import Start
from tests.service.pictures import jpeg
from tests.service.processes import free_port, service_process
from tests.service.running import Running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
STAGES = ["read", "decode", "queue", "infer", "postprocess", "encode"]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Every service of the test sends its spans here."""
    exporter = InMemorySpanExporter()

    def open_in_memory(settings: TracingSettings) -> Tracing | None:
        return open_tracing(settings, make_exporter=lambda endpoint: exporter)

    monkeypatch.setattr(app_module, "open_tracing", open_in_memory)
    return exporter


def spans_of(running: Running, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    tracing = running.context.tracing
    assert tracing is not None
    tracing._provider.force_flush()
    return {span.name: span for span in exporter.get_finished_spans()}


ON = {"endpoint": "http://127.0.0.1:1/v1/traces"}


async def test_a_request_is_a_span_with_its_stages(
    start: Start, exported: InMemorySpanExporter
) -> None:
    async with start(tracing=ON, stub={"batch_ms": 20}) as running:
        headers = {"traceparent": PARENT, "tracestate": "a=1, b=2", "X-Request-ID": "my-id"}
        response = await running.client.post("/classify", content=jpeg(), headers=headers)
        await running.client.get("/metrics")
        spans = spans_of(running, exported)
    assert list(spans) == [*STAGES, "POST /classify"]
    whole = spans["POST /classify"]
    assert whole.kind is SpanKind.SERVER
    assert whole.parent is not None
    assert f"{whole.parent.span_id:016x}" == SPAN
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert whole.context.trace_state.to_header() == "a=1,b=2"
    assert response.headers["traceresponse"] == f"00-{TRACE}-{whole.context.span_id:016x}-01"
    assert dict(whole.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/classify",
        "url.path": "/classify",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "http.response.status_code": 200,
        "http.request.body.size": len(jpeg()),
        "http.response.body.size": len(response.content),
        "smserve.request_id": "my-id",
        "smserve.task": "classify",
        "smserve.model": "stub-classify",
        "smserve.images": 1,
        "smserve.batch_size": 1,
    }
    assert whole.resource.attributes["service.name"] == "smserve"
    begin = whole.start_time
    for stage in STAGES:
        span = spans[stage]
        assert span.parent is not None
        assert span.parent.span_id == whole.context.span_id
        assert span.start_time == begin
        assert span.end_time is not None
        begin = span.end_time
    assert begin is not None
    assert whole.end_time is not None
    assert begin <= whole.end_time
    infer = spans["infer"]
    assert infer.end_time is not None
    assert infer.start_time is not None
    assert infer.end_time - infer.start_time >= 20e6


async def test_errors_are_named_and_only_ours_are_failures(
    start: Start, exported: InMemorySpanExporter
) -> None:
    async with start(tracing=ON, stub={"poison_width": 13}) as running:
        await running.client.post("/classify", content=b"no picture")
        await running.client.post("/detect", content=jpeg(13))
        spans = spans_of(running, exported)
    theirs, ours = spans["POST /classify"], spans["POST /detect"]
    assert (theirs.attributes or {})["error.type"] == "invalid_image"
    assert theirs.status.status_code is StatusCode.UNSET
    assert (ours.attributes or {})["error.type"] == "inference_failed"
    assert ours.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("ratio", "parent", "is_kept"),
    [
        (1.0, None, True),
        (0.0, None, False),
        (0.0, f"00-{TRACE}-{SPAN}-01", True),
        (1.0, f"00-{TRACE}-{SPAN}-00", False),
    ],
)
async def test_the_parent_decides_and_otherwise_the_ratio(
    start: Start,
    exported: InMemorySpanExporter,
    ratio: float,
    parent: str | None,
    is_kept: bool,
) -> None:
    async with start(tracing={**ON, "sample_ratio": ratio}) as running:
        headers = {} if parent is None else {"traceparent": parent}
        response = await running.client.post("/classify", content=jpeg(), headers=headers)
        spans = spans_of(running, exported)
    flags = int(response.headers["traceresponse"].rpartition("-")[2], 16)
    assert flags & 1 == is_kept
    assert bool(spans) is is_kept


async def test_without_tracing_the_clients_trace_is_in_the_log_and_nothing_is_answered(
    start: Start, exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.access")
    seen: list[str | None] = []
    caplog.handler.addFilter(lambda record: seen.append(trace_now()) or True)  # type: ignore[func-returns-value]
    async with start() as running:
        assert running.context.tracing is None
        for parent in (PARENT, "garbage"):
            headers = {"traceparent": parent}
            response = await running.client.post("/classify", content=jpeg(), headers=headers)
            assert response.status_code == 200
            assert "traceresponse" not in response.headers
    assert seen[-2:] == [TRACE, None]
    assert exported.get_finished_spans() == ()


def trace_now() -> str | None:
    from service.logs import trace_id

    return trace_id.get()


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [PARENT.encode(), PARENT.encode()],
        [PARENT.upper().encode()],
        [f"00-{'0' * 32}-{SPAN}-01".encode()],
        [f"00-{TRACE}-{'0' * 16}-01".encode()],
        [f"ff-{TRACE}-{SPAN}-01".encode()],
        [f"{PARENT}-more".encode()],
        [f"00-{TRACE}-{SPAN}".encode()],
        [b"\xff" * 55],
    ],
    ids=range(10),
)
def test_garbage_is_no_parent(values: list[bytes]) -> None:
    assert trace_parent(values, [b"a=1"]) is None


def test_later_versions_may_say_more() -> None:
    parent = trace_parent([f"01-{TRACE}-{SPAN}-00-more".encode()], [])
    assert parent == TraceParent(TRACE, SPAN, is_sampled=False)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([b"a=1,b=2", b"c=3"], "a=1,b=2,c=3"),
        ([b"a=1,,"], "a=1,,"),
        ([b"A=1"], ""),
        ([b"a=\xff"], ""),
        ([b"a"], ""),
        ([b",".join(b"k%d=1" % number for number in range(33))], ""),
        ([b"a=" + b"1" * 3000], ""),
    ],
    ids=range(7),
)
def test_a_state_is_taken_whole_or_not_at_all(states: list[bytes], expected: str) -> None:
    parent = trace_parent([PARENT.encode()], states)
    assert parent is not None
    assert parent.state == expected


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_tracing(TracingSettings()) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"pip install 'spatial-mamba-serve\[tracing\]'"):
        open_tracing(TracingSettings(endpoint="http://127.0.0.1:4318/v1/traces"))


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Address of a server that takes OTLP over HTTP, and what it was sent."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["content-type"] == "application/x-protobuf"
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_collector_receives_otlp_from_the_real_service() -> None:
    with (
        collector() as (endpoint, received),
        service_process(tracing__endpoint=endpoint) as service,
    ):
        headers = {"traceparent": PARENT, "X-Request-ID": "traced"}
        httpx.post(f"{service.url}/detect", content=jpeg(), headers=headers)
        httpx.get(f"{service.url}/readyz")
        service.process.terminate()
        # what was not sent before is sent at the end
        assert service.wait() == 0
        lines = [orjson.loads(line) for line in service.log().splitlines()]
    spans = [
        span
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [span.name for span in spans] == [*STAGES, "POST /detect"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    (line,) = [line for line in lines if line.get("request_id") == "traced"]
    assert line["trace_id"] == TRACE
    for name in ("client", "bytes_in", "bytes_out", "batch_size", "stages_ms"):
        assert line[name], name


def test_a_collector_that_is_not_there_costs_neither_answers_nor_the_end() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}/v1/traces"
    with service_process(tracing__endpoint=endpoint) as service:
        assert httpx.post(f"{service.url}/classify", content=jpeg()).status_code == 200
        service.process.terminate()
        assert service.wait(20) == 0
