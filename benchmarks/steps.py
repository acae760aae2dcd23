"""Programs of a long measurement: each with its result file, and ended when its time is over."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import ROOT

# stands for the folder of the results in a step's arguments
FOLDER: Final = "{results}"
# programs with servers of their own stop these after SIGTERM
_TIDY_UP_S: Final = 20.0
_LEAST_S: Final = 10.0
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    """One program.

    Attributes:
        file: of its results.
        limit_s: the share of the time that it may take.
        least_s: with less it is not started.
        gpus: that it uses at once.
    """

    module: str
    file: str
    arguments: tuple[str, ...]
    limit_s: float
    least_s: float = _LEAST_S
    gpus: int = 1

    def run(
        self,
        folder: Path,
        left_s: float,
        *,
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        log: Path | None = None,
        stop: threading.Event | None = None,
    ) -> str:
        """How it ended.

        Args:
            folder: of the result files.
            before: the command that the program is an argument of, such as `taskset`.
            variables: of the environment, besides this process's own.
            log: its output; None: this process's.
            stop: ends it early when set.
        """
        if left_s < self.least_s:
            return "not started: no time left"
        limit = min(self.limit_s, left_s)
        arguments = [own.replace(FOLDER, str(folder)) for own in self.arguments]
        command = [*before, sys.executable, "-m", self.module, "--out", str(folder / self.file)]
        started = time.monotonic()
        with open(log or os.devnull, "ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                [*command, *arguments],
                cwd=ROOT,
                env={**os.environ, **(variables or {})},  # noqa: TID251 - passed on, not read
                stdout=output if log else None,
                stderr=subprocess.STDOUT if log else None,
                process_group=0,
            )
            try:
                status = _wait(process, started + limit, stop)
            finally:
                _end(process)
        took = f"{time.monotonic() - started:.0f} s"
        if status is None:
            return f"stopped after {took}; what it had measured is in the file"
        return f"done in {took}" if status == 0 else f"exit status {status} after {took}"


def _wait(
    process: "subprocess.Popen[bytes]", deadline: float, stop: threading.Event | None
) -> int | None:
    """The exit status; None: it still runs."""
    while (status := process.poll()) is None and time.monotonic() < deadline:
        if stop is not None and stop.is_set():
            break
        time.sleep(_POLL_S)
    return status


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a program that still runs, and whatever is left of its process group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):  # the signal below cannot be ignored
            process.wait(_TIDY_UP_S)
    with suppress(ProcessLookupError):  # nothing was left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
