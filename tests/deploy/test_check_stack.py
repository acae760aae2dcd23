"""The check of a running stack, against a Prometheus that is made up."""

import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.check_stack import GPU_METRICS, Prometheus, check_stack, without_threshold, write

Answer = Callable[[str], list[str]]


@contextmanager
def prometheus(answer: Answer, health: str = "up") -> Iterator[Prometheus]:
    """Answers each expression with series of these values."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            if url.path == "/api/v1/targets":
                data: object = {"activeTargets": [{"labels": {"job": "smserve"}, "health": health}]}
            else:
                values = answer(urllib.parse.parse_qs(url.query)["query"][0])
                data = {"result": [{"metric": {}, "value": [0, value]} for value in values]}
            content = json.dumps({"status": "success", "data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Prometheus(f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    thread.join()
    server.server_close()


def on_a_cpu(expr: str) -> list[str]:
    assert "$" not in expr, "a variable of Grafana's was left"
    is_of_gpu = any(name in expr for name in GPU_METRICS) or "smserve:gpu_memory" in expr
    return [] if is_of_gpu else ["NaN", "0"]


def test_a_stack_without_a_gpu_is_complete_and_says_what_it_lacks(tmp_path: Path) -> None:
    with prometheus(on_a_cpu) as stack:
        report = check_stack(stack, has_gpu=False)
        with_gpu = check_stack(stack, has_gpu=True)
    assert report.is_complete
    assert len(report.no_gpu) >= 8
    assert with_gpu.missing == report.no_gpu
    write(report, tmp_path / "stack.json")
    content = json.loads((tmp_path / "stack.json").read_text())
    assert len(content["rows"]) == len(report.found) - len(report.no_gpu)
    assert len(content["no_gpu_here"]) == len(report.no_gpu)
    assert content["missing"] == []


@pytest.mark.parametrize("values", [[], ["NaN"], ["+Inf"]])
def test_a_query_without_a_number_is_missing(values: list[str]) -> None:
    def answer(expr: str) -> list[str]:
        return values if "smserve_dropped_total" in expr else on_a_cpu(expr)

    with prometheus(answer) as stack:
        report = check_stack(stack, has_gpu=False)
    assert not report.is_complete
    assert {query.title for query in report.missing} == {"dropped before the device"}


def test_figures_of_a_gpu_that_is_said_not_to_be_there_are_a_mistake() -> None:
    with prometheus(lambda expr: ["1"]) as stack:
        report = check_stack(stack, has_gpu=False)
        assert not report.is_complete
        assert report.no_gpu == []
        assert check_stack(stack, has_gpu=True).is_complete


def test_a_target_that_is_down() -> None:
    with prometheus(on_a_cpu, health="down") as stack:
        assert not check_stack(stack, has_gpu=False).is_complete


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("a > 0.01", "a"),
        ('up{job="x"} == 0', 'up{job="x"}'),
        ("(a and on (i) b) == 0 or (c unless d) == 1", "(a and on (i) b) or (c unless d)"),
        ('rate(a{code=~"5.."}[5m]) / 2', 'rate(a{code=~"5.."}[5m]) / 2'),
    ],
)
def test_thresholds_are_left_out(expr: str, wanted: str) -> None:
    assert without_threshold(expr) == wanted
