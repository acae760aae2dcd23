"""The service on a Ray cluster of this machine, for load tests."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from loadtests.own_server import ROOT, ServerProcess, free_port

_PROGRAM: Final = "from service.cli.app import main; main()"
_PREFIX: Final = "SMSERVE_"
_REPLICA: Final = "ray::ServeReplica"
_ADDRESS: Final = re.compile(r'"address":"([0-9.:]+)"')
_UPDATE_S: Final = 180.0
# else Ray would leave one in the home folder
TOKEN: Final = secrets.token_hex(32)


class RayCluster(ServerProcess):
    """`smserve ray` with a cluster of its own, stopped with everything it has started.

    Args:
        options: of the command, e.g. `--replicas 2`.
        settings: `SMSERVE_` variables without the prefix.
        start_s: longest time until it is ready.
    """

    def __init__(
        self, *options: str, start_s: float = 120.0, log_level: str = "info", **settings: str
    ) -> None:
        self._port = free_port()
        self._scratch = Path(tempfile.mkdtemp(prefix="smray-"))
        self._settings = {"backend": "stub", "log__level": log_level, **settings}
        super().__init__(
            [*_command("--port", str(self._port)), *options],
            port=self._port,
            environment=self._variables(self._settings),
            start_s=start_s,
        )

    def replica_pids(self) -> set[int]:
        """Processes of living replicas, those included that start or drain."""
        return {
            child.pid
            for child in psutil.Process(self.pid).children(recursive=True)
            if _title(child).startswith(_REPLICA)
        }

    def update(self, *options: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        """Deploy once more, as `smserve ray --address` does, and wait for the outcome."""
        return subprocess.run(  # noqa: S603 - our own program
            [*_command("--port", str(self._port), "--address", self.address()), *options],
            env=self._variables(self._settings | settings),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_UPDATE_S,
            check=False,
        )

    def address(self) -> str:
        """Of the cluster, as it said when it had started.

        Raises:
            RuntimeError: it has not said so.
        """
        found = _ADDRESS.search(self.log())
        if found is None:
            raise RuntimeError(f"no address in the log\n{self.log()}")
        return found[1]

    def close(self, stop_s: float = 60.0) -> None:
        """End it with everything that Ray has started."""
        children = [] if self._process is None else _children(self.pid)
        super().close(stop_s)
        for child in children:
            _kill(child)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _variables(self, settings: Mapping[str, str]) -> dict[str, str]:
        ours = dict(os.environ)  # noqa: TID251 - handed on to the cluster, not read
        variables = {name: value for name, value in ours.items() if not name.startswith(_PREFIX)}
        variables |= {f"{_PREFIX}{name}".upper(): value for name, value in settings.items()}
        return variables | ray_variables(self._scratch)


def ray_variables(scratch: Path) -> dict[str, str]:
    """Keep two clusters of one machine apart; Ray's own choices are the same for all."""
    first = 20_000 + 10 * (os.getpid() % 1_000)
    return {
        "RAY_TMPDIR": str(scratch),
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 500),
        "PYTHONPATH": str(ROOT),
    }


def wait_for(condition: Any, timeout_s: float, poll_s: float = 0.1) -> float | None:
    """Seconds until it holds; None when it does not in time."""
    started = time.monotonic()
    while time.monotonic() < started + timeout_s:
        if condition():
            return time.monotonic() - started
        time.sleep(poll_s)
    return None


def _command(*options: str) -> list[str]:
    return [sys.executable, "-c", _PROGRAM, "ray", *options]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.Error:
        return
