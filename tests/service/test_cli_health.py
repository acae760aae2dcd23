"""`smserve health` against the real service, and against what is not one."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.service.processes import ROOT, free_port, service_process
from tests.service.test_cli import smserve

_PROGRAM = "from service.cli.app import main; main()"


def test_ready_and_live() -> None:
    with service_process() as service:
        port = service.url.rpartition(":")[2]
        # as an image asks: nothing but its environment says where the service is
        environment = os.environ | {"SMSERVE_PORT": port, "SMSERVE_HOST": "0.0.0.0"}  # noqa: TID251, S104
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", _PROGRAM, "health"],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "ready\n"), done.stderr
        result = smserve("health", "--live", "--port", port)
        assert (result.exit_code, result.stdout) == (0, "live\n")


def test_a_service_that_drains_is_live_but_not_ready() -> None:
    with service_process(shutdown__grace_s="20") as service:
        port = service.url.rpartition(":")[2]
        service.process.terminate()
        while not (result := smserve("health", "--port", port)).exit_code:
            pass
        assert result.exit_code == 1
        assert "/readyz answers 503: the server is shutting down" in result.stderr
        assert smserve("health", "--live", "--port", port).exit_code == 0


def test_nobody_there() -> None:
    port = free_port()
    result = smserve("health", "--port", port)
    assert result.exit_code == 1
    assert f"no answer from 127.0.0.1:{port}: Connection refused" in result.stderr


@contextmanager
def stranger(answer: bytes) -> Iterator[int]:
    """Answers one connection with these bytes -> its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (b"220 mail.example ESMTP\r\n", "no answer of smserve"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 5\r\n\r\noops!", "/readyz answers 502: no reason"),
    ],
)
def test_somebody_else_there(answer: bytes, wanted: str) -> None:
    with stranger(answer) as port:
        result = smserve("health", "--port", port)
    assert result.exit_code == 1
    assert wanted in result.stderr
