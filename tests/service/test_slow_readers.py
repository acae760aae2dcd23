"""Clients that ask for a large answer and do not read it, against the real server."""

import socket
import time

import httpx
import numpy as np
import orjson
import psutil
import pytest
from PIL import Image

from tests.service.pictures import encode
from tests.service.processes import ServiceProcess, service_process

# the overlay of noise is a PNG of about 8 MB, more than the kernel's buffers take
SIDE = 1700
pytestmark = pytest.mark.timeout(60)
TIMEOUT_MS = 1000


@pytest.fixture(scope="module")
def noise() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return encode(Image.fromarray(pixels), "JPEG", quality=60)


def ask(service: ServiceProcess, content: bytes, request_id: str) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.connect((host, int(port)))
    head = (
        "POST /segment HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\n"
        f"X-Request-ID: {request_id}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    client.sendall(head.encode() + content)
    return client


def rest_of(client: socket.socket) -> bytes:
    client.settimeout(20)
    received = bytearray()
    try:
        while data := client.recv(1 << 20):
            received += data
    except ConnectionResetError:
        pass
    return bytes(received)


def access_line(service: ServiceProcess, request_id: str) -> dict[str, object]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        lines = [orjson.loads(line) for line in service.log().splitlines()]
        for line in lines:
            if line.get("request_id") == request_id and line["message"] == "request":
                return dict(line)
        time.sleep(0.05)
    raise TimeoutError(service.log())


def length_of(answer: bytes) -> int:
    head = answer.partition(b"\r\n\r\n")[0].lower()
    (value,) = [
        line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"content-length")
    ]
    return int(value)


def test_a_client_that_never_reads_is_cut_off(noise: bytes) -> None:
    with service_process(timeouts__send_ms=str(TIMEOUT_MS)) as service:
        with ask(service, noise, "never") as client:
            line = access_line(service, "never")
            assert (line["status"], line["error"]) == (499, "client_gone")
            duration_ms = line["duration_ms"]
            assert isinstance(duration_ms, float)
            assert duration_ms > TIMEOUT_MS
            text = httpx.get(f"{service.url}/metrics").text
            labels = 'code="499",model="stub-segment",task="segment"'
            assert f"smserve_requests_total{{{labels}}} 1.0" in text
            assert 'smserve_inflight_requests{task="segment"} 0.0' in text
            assert _connections(service) == 0, "the connection stays open"
            answer = rest_of(client)
            assert 0 < len(answer) < length_of(answer)
        assert "slow reader cut off" in service.log()
        assert "Traceback" not in service.log()
        # the next one is served
        assert httpx.post(f"{service.url}/segment", content=noise, timeout=30).status_code == 200


def test_a_client_that_reads_slowly_but_steadily_gets_everything(noise: bytes) -> None:
    with (
        service_process(timeouts__send_ms=str(TIMEOUT_MS)) as service,
        ask(service, noise, "slow") as client,
    ):
        received = bytearray()
        client.settimeout(20)
        while b"\r\n\r\n" not in received:
            received += client.recv(4096)
        started = time.monotonic()
        # longer than the timeout in all, shorter from one piece to the next
        while time.monotonic() - started < 2.5 * TIMEOUT_MS / 1000:
            received += client.recv(100_000)
            time.sleep(0.15)
        length = length_of(bytes(received)) + bytes(received).index(b"\r\n\r\n") + 4
        while len(received) < length:
            data = client.recv(1 << 20)
            assert data, "cut off"
            received += data
        assert access_line(service, "slow")["status"] == 200


def test_a_client_that_leaves_in_the_middle_of_its_answer_is_gone(noise: bytes) -> None:
    with service_process() as service:
        client = ask(service, noise, "left")
        client.recv(1000)
        client.close()
        line = access_line(service, "left")
        assert (line["status"], line["error"]) == (499, "client_gone")


def _connections(service: ServiceProcess) -> int:
    """Open ones of the server; the one that asked for the metrics is closed by now."""
    port = int(service.url.rpartition(":")[2])
    found = psutil.Process(service.process.pid).net_connections("tcp")
    return sum(c.status == "ESTABLISHED" and c.laddr.port == port for c in found)
