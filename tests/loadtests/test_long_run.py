"""SIGTERM stops the servers of a load test."""

import signal
import subprocess
import sys

import httpx
import pytest

from benchmarks.report import ROOT
from loadtests.own_server import free_port

SERVER = """
import sys
from loadtests.long_run import exit_on_sigterm
from loadtests.own_server import ServerProcess

exit_on_sigterm()
port = sys.argv[1]
command = [sys.executable, "-u", "-m", "http.server", port, "--bind", "127.0.0.1"]
with ServerProcess(command, port=int(port), environment={}, ready_path="/README.md"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_sigterm_stops_the_server_and_tells_its_last_lines() -> None:
    port = free_port()
    with subprocess.Popen(  # noqa: S603 - the program above
        [sys.executable, "-c", SERVER, str(port)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.terminate()
        program.terminate()  # as `timeout` does: to the program, then to its group
        _, errors = program.communicate(timeout=20)
    assert program.returncode == 128 + signal.SIGTERM
    assert '"GET /README.md HTTP/1.1" 200' in errors
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/")
