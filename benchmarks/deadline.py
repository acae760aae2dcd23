"""A limit for a whole run, in a module that starts without torch."""

import time


class Deadline:
    """A limit for a whole run."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.monotonic() + limit_s

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end
