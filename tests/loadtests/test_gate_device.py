"""A gate's result names what computed."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.report import cpu_name
from loadtests.gates.gate import device_of, gpu_names
from loadtests.own_server import ServerProcess

METRIC = "smserve_gpu_info"


@contextmanager
def service_on(device: str, *gpus: str) -> Iterator[int]:
    """What a service says of itself; yields the port."""
    lines = [f"# TYPE {METRIC} gauge"]
    lines += [f'{METRIC}{{gpu="{n}",name="{name}",uuid="{n}"}} 1.0' for n, name in enumerate(gpus)]
    bodies = {
        "/models": json.dumps({"models": [{"device": device}] * 3}),
        "/metrics": "\n".join(lines) + "\n",
    }

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies[self.path].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("device", "gpus", "wanted"),
    [
        ("cpu", (), cpu_name()),
        ("cuda:0", ("NVIDIA X",), "NVIDIA X"),
        ("cuda:0", ("NVIDIA X", "NVIDIA X"), "2 x NVIDIA X"),
        ("cuda:0", (), "cuda:0"),
    ],
)
def test_the_device_is_the_servers(device: str, gpus: tuple[str, ...], wanted: str) -> None:
    with service_on(device, *gpus) as port:
        server = ServerProcess([], port=port, environment={})
        try:
            assert device_of(server) == wanted
        finally:
            server.close()


def test_different_gpus_are_all_named() -> None:
    assert gpu_names(["A", "B", "A"]) == "2 x A, B"
