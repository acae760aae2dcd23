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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from loadtests.own_server import ROOT, ServerProcess, free_port

_PROGRAM: Final = "from service.cli.app import main; main()"
_PREFIX: Final = "SMSERVE_"
_REPLICA: Final = "ray::ServeReplica"
_ADDRESS: Final = re.compile(r'"address":"([0-9.:]+)"')
_FIRST_PORT: Final = 20_000 + 10 * (os.getpid() % 1_000)
_NUM_PORTS: Final = 500
_UPDATE_S: Final = 180.0
# else Ray would leave one in the home folder
TOKEN: Final = secrets.token_hex(32)


class _Cluster(ServerProcess):
    """A cluster, stopped with everything it has started.

    Args:
        port: of the service.
        variables: of the environment, besides those that keep clusters apart.
    """

    def __init__(
        self, command: Sequence[str], *, port: int, variables: Mapping[str, str], start_s: float
    ) -> None:
        self.port = port
        self.scratch = Path(tempfile.mkdtemp(prefix="smray-"))
        self._variables = dict(variables)
        super().__init__(
            command, port=port, environment=self.environment(self._variables), start_s=start_s
        )

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """All of it, for a program that has to do with this cluster."""
        ours = dict(os.environ)  # noqa: TID251 - handed on to the cluster, not read
        clean = {name: value for name, value in ours.items() if not name.startswith(_PREFIX)}
        return clean | dict(variables) | ray_variables(self.scratch)

    def replica_pids(self) -> set[int]:
        """Processes of living replicas, those included that start or drain."""
        return {one.pid for one in _children(self.pid) if _title(one).startswith(_REPLICA)}

    def replica_port(self, pid: int) -> int:
        """On which a replica hears from HAProxy."""
        listening = {
            one.laddr.port
            for one in psutil.Process(pid).net_connections(kind="inet")
            if one.status == psutil.CONN_LISTEN
        }
        (port,) = listening & set(range(_FIRST_PORT, _FIRST_PORT + _NUM_PORTS))
        return port

    def close(self, stop_s: float = 60.0) -> None:
        """End it with everything that Ray has started."""
        children = [] if self._process is None else _children(self.pid)
        super().close(stop_s)
        for child in children:
            _kill(child)
        shutil.rmtree(self.scratch, ignore_errors=True)


class RayCluster(_Cluster):
    """`smserve ray` with a cluster of its own.

    Args:
        options: of the command, e.g. `--replicas 2`.
        settings: `SMSERVE_` variables without the prefix.
        start_s: longest time until it is ready.
    """

    def __init__(self, *options: str, start_s: float = 120.0, **settings: str) -> None:
        self._settings = {"backend": "stub", **settings}
        port = free_port()
        super().__init__(
            [*_command("--port", str(port)), *options],
            port=port,
            variables=_as_variables(self._settings),
            start_s=start_s,
        )

    def update(self, *options: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        """Deploy once more, as `smserve ray --address` does, and wait for the outcome."""
        return subprocess.run(  # noqa: S603 - our own program
            [*_command("--port", str(self.port), "--address", self.address()), *options],
            env=self.environment(_as_variables(self._settings | settings)),
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


class StartedCluster(_Cluster):
    """`ray start` as operators call it, with nothing deployed; `start` it, wait until `is_up`.

    Attributes:
        dashboard: its address, which `serve deploy` wants.
    """

    def __init__(self, *, port: int, variables: Mapping[str, str]) -> None:
        dashboard_port = free_port()
        self.dashboard = f"http://127.0.0.1:{dashboard_port}"
        options = {
            "node-ip-address": "127.0.0.1",
            "port": str(free_port()),
            "dashboard-host": "127.0.0.1",
            "dashboard-port": str(dashboard_port),
            "dashboard-agent-listen-port": str(free_port()),
            "num-cpus": "2",
            "object-store-memory": str(100 * 1024 * 1024),
        }
        super().__init__(
            [
                *(_tool("ray"), "start", "--head", "--block"),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            port=port,
            variables=variables,
            start_s=_UPDATE_S,
        )

    def is_up(self) -> bool:
        """Its dashboard answers."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        try:
            url = f"{self.dashboard}/api/serve/applications/"
            return httpx.get(url, headers=headers, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def run(self, tool: str, *arguments: str) -> str:
        """A command of Ray, which must succeed; what it printed."""
        done = subprocess.run(  # noqa: S603 - a tool of Ray
            [_tool(tool), *arguments],
            env=self.environment(self._variables),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_UPDATE_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{tool} {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
        return done.stdout


def _as_variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"{_PREFIX}{name}".upper(): value for name, value in settings.items()}


def _tool(name: str) -> str:
    """A script of Ray, in the environment of this Python."""
    return str(Path(sys.executable).with_name(name))


def ray_variables(scratch: Path) -> dict[str, str]:
    """Keep two clusters of one machine apart; Ray's own choices are the same for all."""
    return {
        "RAY_TMPDIR": str(scratch),
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(_FIRST_PORT),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(_FIRST_PORT + _NUM_PORTS - 1),
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
