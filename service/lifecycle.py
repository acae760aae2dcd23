"""Which work is accepted, from start to end of the process."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from service.telemetry import Metrics

log = logging.getLogger(__name__)


class Phase(StrEnum):
    """OPEN accepts; CLOSING accepts but is not ready any more; CLOSED refuses new work."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Lifecycle:
    """Counts the accepted requests and knows whether more may come. Event loop only."""

    def __init__(self, metrics: Metrics) -> None:
        self.phase = Phase.OPEN
        self.failure: str | None = None
        self._metrics = metrics
        self._num_accepted = 0
        self._finished = asyncio.Event()
        self._on_failure: Callable[[], None] | None = None

    @property
    def num_accepted(self) -> int:
        """Requests for work that have no answer yet."""
        return self._num_accepted

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """One request for work, from its first byte to the last of its answer."""
        self._num_accepted += 1
        try:
            yield
        finally:
            self._num_accepted -= 1
            if not self._num_accepted:
                self._finished.set()

    def begin_closing(self) -> None:
        self.phase = Phase.CLOSING
        self._metrics.draining.set(1)
        log.info("closing: not ready, still accepting")

    def close(self) -> None:
        self.phase = Phase.CLOSED
        self._metrics.draining.set(1)
        log.info("closed: finishing accepted work", extra={"requests": self._num_accepted})

    async def drained(self, *, timeout_s: float) -> bool:
        """Wait for the accepted requests; False when some are left after `timeout_s`."""
        self._finished.clear()
        if not self._num_accepted:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._finished.wait()
        except TimeoutError:
            return False
        return True

    def call_on_failure(self, function: Callable[[], None]) -> None:
        """Have `function` called when the process cannot go on."""
        self._on_failure = function

    def fail(self, reason: str) -> None:
        """The engine is lost: the process should end with a status that is not 0."""
        self.failure = reason
        if self._on_failure is not None:
            self._on_failure()
