"""What long programs owe to those who wait: how far they are, and an orderly early end."""

import signal
import time
from types import FrameType
from typing import Final, NoReturn

_STATUS: Final = 128 + signal.SIGTERM


def exit_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that the blocks it leaves stop their servers.

    Of several signals only the first counts: `timeout` sends two, and the second one would
    interrupt the tidying up.
    """
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: None)
    raise SystemExit(_STATUS)


class Steps:
    """Prints each step with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, step: str) -> None:
        print(f"[{time.monotonic() - self._started:6.1f} s] {step}", flush=True)
