"""The real service in a process of its own, on a free loopback port."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = "import sys; from service.cli.app import main; sys.argv = ['smserve', 'serve']; main()"
_READY_IN_A_ROW = 8


@dataclass(frozen=True)
class ServiceProcess:
    process: "subprocess.Popen[bytes]"
    url: str
    log_file: Path

    def wait(self, timeout_s: float = 60) -> int:
        return self.process.wait(timeout=timeout_s)

    def log(self) -> str:
        """Everything written to standard error so far."""
        return self.log_file.read_text(encoding="utf-8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def service_process(*, is_awaited: bool = True, **settings: str) -> Iterator[ServiceProcess]:
    """`smserve serve` with the stub backend; keyword arguments are `SMSERVE_` variables."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SMSERVE_")}  # noqa: TID251
    environment |= {
        "SMSERVE_BACKEND": "stub",
        "SMSERVE_PORT": str(port),
        "SMSERVE_SHUTDOWN__GRACE_S": "0",
        "PYTHONPATH": str(ROOT),
        **{f"SMSERVE_{name.upper()}": value for name, value in settings.items()},
    }
    # a file, not a pipe: a pipe that nobody reads fills up and stops the writer
    with (
        tempfile.NamedTemporaryFile(prefix="smserve-", suffix=".log") as log,
        subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", _PROGRAM], env=environment, cwd=ROOT, stderr=log
        ) as process,
    ):
        service = ServiceProcess(process, f"http://127.0.0.1:{port}", Path(log.name))
        try:
            if is_awaited:
                _wait_until_ready(service)
            yield service
        finally:
            if process.poll() is None:
                process.kill()


def _wait_until_ready(service: ServiceProcess) -> None:
    """Until it says so many times in a row: each connection may come to another front end."""
    deadline, in_a_row = time.monotonic() + 120, 0
    while time.monotonic() < deadline:
        assert service.process.poll() is None, service.log()
        try:
            is_ready = httpx.get(f"{service.url}/readyz").status_code == 200
        except httpx.TransportError:
            is_ready = False
        in_a_row = in_a_row + 1 if is_ready else 0
        if in_a_row == _READY_IN_A_ROW:
            return
        if not is_ready:
            time.sleep(0.05)
    raise TimeoutError("the service did not become ready")
