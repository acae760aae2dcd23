"""Docker and its compose plugin, as far as the proof of the image needs them."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
_POLL_S: Final = 0.5


class DockerError(RuntimeError):
    """A command failed; the message has its last lines."""


def docker(*arguments: str, timeout_s: float = 120.0) -> str:
    """What a command prints.

    Raises:
        DockerError: its exit status is not 0.
    """
    done = subprocess.run(  # noqa: S603 - our own arguments
        ["docker", *arguments],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-15:]
        raise DockerError("\n".join([f"docker {' '.join(arguments[:4])} ...", *lines]))
    return done.stdout.strip()


def inspect(name: str, template: str) -> Any:
    """A part of what Docker knows of a container or an image, e.g. `.State`."""
    return json.loads(docker("inspect", "-f", f"{{{{json {template}}}}}", name))


def wait_until_healthy(name: str, timeout_s: float) -> float:
    """Seconds until the health check of a container says so.

    Raises:
        DockerError: it does not.
    """
    started = time.monotonic()
    while time.monotonic() < started + timeout_s:
        state = inspect(name, ".State")
        if state["Status"] == "running" and state["Health"]["Status"] == "healthy":
            return time.monotonic() - started
        time.sleep(_POLL_S)
    tail = docker("logs", "--tail", "5", name)
    raise DockerError(f"{name} is not healthy after {timeout_s:.0f} s: {state['Status']}\n{tail}")


def python_in(name: str, program: str) -> str:
    """What a Python program prints inside a container."""
    return docker("exec", name, "python", "-c", program)


class Compose:
    """A compose project.

    Args:
        files: of its services, those that come later change the earlier ones.
        profile: that is started.
        variables: for the files, beside the environment.
    """

    def __init__(self, files: Sequence[str], profile: str, variables: dict[str, str]) -> None:
        named = [word for file in files for word in ("-f", file)]
        self._command = ["docker", "compose", *named, "--profile", profile]
        self._variables = variables

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """A command that goes on in the background; what it prints is seen."""
        environment = os.environ | self._variables  # noqa: TID251 - handed on, not read
        return subprocess.Popen(  # noqa: S603 - our own arguments
            [*self._command, *arguments], cwd=ROOT, env=environment
        )

    def run(self, *arguments: str) -> None:
        """Wait for a command.

        Raises:
            DockerError: its exit status is not 0.
        """
        with self.start(*arguments) as process:
            if status := process.wait():
                raise DockerError(f"docker compose {' '.join(arguments)}: exit status {status}")

    def container(self, service: str) -> str:
        """The id of a service's container."""
        done = subprocess.run(  # noqa: S603 - our own arguments
            [*self._command, "ps", "-a", "-q", service],
            cwd=ROOT,
            env=os.environ | self._variables,  # noqa: TID251 - handed on, not read
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()
