"""Servers for load tests: each in processes of its own, on a free loopback port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

import httpx

ROOT: Final = Path(__file__).resolve().parents[1]
_PROGRAM: Final = (
    "import sys; from service.cli.app import main; sys.argv = ['smserve', 'serve']; main()"
)
_PREFIX: Final = "SMSERVE_"
_START_S: Final = 180.0
_STOP_S: Final = 60.0
# after a failure or a signal; whoever sent SIGTERM soon sends SIGKILL
_EARLY_STOP_S: Final = 5.0
_POLL_S: Final = 0.05


class ServerStartError(RuntimeError):
    """The server ended or did not become ready; the message holds its last log lines."""


class ServerProcess:
    """A program that listens on a loopback port; a block's end stops it and all its children.

    Args:
        command: of the program, which knows its port.
        environment: all of it.
        ready_path: answers 200 when requests are welcome.
        start_s: longest time until then.

    Attributes:
        start_up_s: seconds until it was ready.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        environment: Mapping[str, str],
        ready_path: str = "/readyz",
        start_s: float = _START_S,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command, self._environment = list(command), dict(environment)
        self._ready_path, self._start_s = ready_path, start_s
        self._folder = TemporaryDirectory(prefix="smserve-load-")
        self._log_file = Path(self._folder.name) / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.start_up_s = 0.0

    def __enter__(self) -> Self:
        try:
            self.start()
            self.start_up_s = self.wait_until_ready()
        except BaseException as exc:
            # the other error has the lines in its message
            self._end_early(has_told=isinstance(exc, ServerStartError))
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._end_early()

    def _end_early(self, *, has_told: bool = False) -> None:
        """Close, and print what the server said last: its log goes with its folder."""
        try:
            if not has_told and (lines := self._last_lines()):
                print(f"last lines of the server's log:\n{lines}", file=sys.stderr, flush=True)
        finally:
            self.close(_EARLY_STOP_S)

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        """Start it, also once more after its end, on the same port."""
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command,
                env=self._environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> float:
        """Seconds it took.

        Raises:
            ServerStartError: it ended, or took too long.
        """
        started = time.monotonic()
        while time.monotonic() < started + self._start_s:
            if self.process.poll() is not None:
                status = self.process.returncode
                raise ServerStartError(f"exit status {status}\n{self._last_lines()}")
            if self.is_ready():
                return time.monotonic() - started
            time.sleep(_POLL_S)
        raise ServerStartError(f"not ready after {self._start_s:.0f} s\n{self._last_lines()}")

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}{self._ready_path}", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def terminate(self) -> None:
        """Send SIGTERM and do not wait."""
        self.process.terminate()

    def wait(self, timeout_s: float) -> int | None:
        """Exit status; None when it runs on."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self, stop_s: float = _STOP_S) -> None:
        """Terminate, wait, and kill what is left of the whole session."""
        if self._process is not None:
            self._process.terminate()
            self.wait(stop_s)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._folder.cleanup()

    def log(self) -> str:
        """Everything the server has written so far."""
        if not self._log_file.exists():
            return ""
        return self._log_file.read_text(encoding="utf-8", errors="replace")

    def _last_lines(self, number: int = 20) -> str:
        return "\n".join(self.log().splitlines()[-number:])


def smserve_process(
    *,
    port: int | None = None,
    is_inherited: bool = False,
    start_s: float = _START_S,
    variables: Mapping[str, str] | None = None,
    **settings: str,
) -> ServerProcess:
    """The service, not started yet.

    Args:
        is_inherited: `SMSERVE_*` variables of the caller apply where `settings` say nothing.
        variables: of the environment, that are no settings of ours.
        settings: names of variables without the prefix, e.g. `batch__max_images="4"`.
    """
    port = port or free_port()
    ours = dict(os.environ)  # noqa: TID251 - handed on to the server, not read
    environment = {
        name: value for name, value in ours.items() if is_inherited or not name.startswith(_PREFIX)
    }
    environment.setdefault(f"{_PREFIX}LOG__LEVEL", "warning")
    environment.setdefault(f"{_PREFIX}SHUTDOWN__GRACE_S", "0")
    environment |= {f"{_PREFIX}{name}".upper(): value for name, value in settings.items()}
    environment |= variables or {}
    environment |= {f"{_PREFIX}HOST": "127.0.0.1", f"{_PREFIX}PORT": str(port)}
    return ServerProcess(
        [sys.executable, "-c", _PROGRAM], port=port, environment=environment, start_s=start_s
    )


@dataclass(frozen=True, slots=True)
class OwnServer:
    """Where the server listens, and its process id."""

    url: str
    pid: int


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Start the service, wait until it is ready, stop it at the end.

    `SMSERVE_*` variables of the caller apply, apart from the address.

    Raises:
        ServerStartError: it cannot serve.
    """
    with smserve_process(is_inherited=True, shutdown__grace_s="0") as server:
        yield OwnServer(server.url, server.pid)


def free_port() -> int:
    """A port of the loopback address on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
