"""A server for one load test: the demo models on a free loopback port, in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[1]
_PROGRAM: Final = (
    "import sys; from service.cli.app import main; sys.argv = ['smserve', 'serve']; main()"
)
_START_S: Final = 180.0
_STOP_S: Final = 60.0


class ServerStartError(RuntimeError):
    """The server ended or did not become ready; the message holds its last log lines."""


@dataclass(frozen=True, slots=True)
class OwnServer:
    """Where the server listens, and its process id."""

    url: str
    pid: int


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Start the server, wait until it is ready, stop it at the end.

    `SMSERVE_*` variables of the caller apply, apart from the address.

    Raises:
        ServerStartError: it cannot serve.
    """
    port = _free_port()
    environment = os.environ | {  # noqa: TID251 - handed on to the server, not read
        "SMSERVE_HOST": "127.0.0.1",
        "SMSERVE_PORT": str(port),
        "SMSERVE_LOG__LEVEL": "warning",
        "SMSERVE_SHUTDOWN__GRACE_S": "0",
    }
    with TemporaryDirectory(prefix="smserve-load-") as folder:
        log_file = Path(folder) / "server.log"
        with (
            log_file.open("wb") as log,
            subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-c", _PROGRAM], env=environment, cwd=ROOT, stderr=log
            ) as process,
        ):
            try:
                server = OwnServer(f"http://127.0.0.1:{port}", process.pid)
                _wait_until_ready(server.url, process, log_file)
                yield server
            finally:
                _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log_file: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerStartError(f"exit status {process.returncode}\n{_last_lines(log_file)}")
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise ServerStartError(f"not ready after {_START_S:.0f} s\n{_last_lines(log_file)}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _last_lines(log_file: Path, number: int = 20) -> str:
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-number:])
