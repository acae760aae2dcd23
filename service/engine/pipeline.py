"""Batches between the queue and their answers: one is computed, the next one is prepared."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

from service.engine.batch_queue import Entry
from service.engine.batch_types import BatchKey, BatchObserver, BatchRunner, Served
from service.engine.device import DeviceOutOfMemoryError
from service.engine.throughput import Throughput
from service.errors import (
    DeadlineExceededError,
    EngineUnavailableError,
    InferenceFailedError,
    ServiceError,
    ShuttingDownError,
)

log = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Batch: TypeAlias = list[Entry[ItemT, ResultT]]
_BATCHES_AT_ONCE: Final = 2


@dataclass(slots=True, eq=False)
class Flight(Generic[ItemT, ResultT]):
    """One batch; times in seconds.

    Attributes:
        starts_at: it has the device from then on, as far as is known.
        estimate_s: it will have it; None while nothing has been measured.
        is_staged: it is on its way to the device.
    """

    batch: Batch[ItemT, ResultT]
    starts_at: float
    estimate_s: float | None
    is_staged: bool = False


class Pipeline(Generic[ItemT, ResultT]):
    """Prepares and computes batches, and learns how long that takes.

    Args:
        half: most images of a batch where so many did not fit into memory.
        on_time: told how many seconds of the device a batch of so many images took.
        on_change: called when there is room for another batch.
        on_memory_cap: called when `memory_caps` has changed.

    Attributes:
        memory_caps: most images of a batch where more did not fit into the device's memory.
        throughput: of the device, batch after batch.
    """

    def __init__(
        self,
        runner: BatchRunner[ItemT, ResultT],
        observer: BatchObserver,
        clock: Callable[[], float],
        *,
        half: Callable[[int], int],
        on_time: Callable[[BatchKey, int, float], None],
        on_change: Callable[[], None],
        on_memory_cap: Callable[[], None],
    ) -> None:
        self._runner = runner
        self._observer = observer
        self._clock = clock
        self._half = half
        self._on_time = on_time
        self._on_change = on_change
        self._on_memory_cap = on_memory_cap
        self.memory_caps: dict[BatchKey, int] = {}
        self.throughput = Throughput()
        self._preparation = Throughput()
        self._flights: list[Flight[ItemT, ResultT]] = []
        self._free_since = -math.inf

    @property
    def is_busy(self) -> bool:
        """Whether there is any batch."""
        return bool(self._flights)

    @property
    def has_room(self) -> bool:
        """For one more, which is prepared at once."""
        all_staged = all(flight.is_staged for flight in self._flights)
        return all_staged and len(self._flights) < _BATCHES_AT_ONCE

    def free_in_s(self, now: float) -> float | None:
        """Until the device has done all of them; None: not known."""
        if any(flight.estimate_s is None for flight in self._flights):
            return None
        running = self._flights[:1]
        started = sum(min(now - own.starts_at, own.estimate_s or 0.0) for own in running)
        return sum(own.estimate_s or 0.0 for own in self._flights) - started

    def preparation_s(self, model: str) -> float:
        """What `stage` usually takes."""
        return self._preparation.seconds([(model, 1)]) or 0.0

    def begin(self, batch: Batch[ItemT, ResultT]) -> Flight[ItemT, ResultT]:
        """Count a batch that will be served."""
        key = batch[0].key
        estimate = self.throughput.seconds([(key.model, key.pixels * len(batch))])
        flight = Flight(batch, self._clock(), estimate)
        self._flights.append(flight)
        return flight

    async def serve(self, flight: Flight[ItemT, ResultT]) -> None:
        """Compute a batch and resolve each of its futures, whatever happens."""
        pieces = [flight.batch]
        try:
            while pieces:
                pieces[:0] = await self._try(pieces.pop(0), flight)
                pieces = [live for piece in pieces if (live := self._live(piece))]
        except BaseException:  # cancelled: no future may stay pending
            fail(flight.batch, _stopped_midway)
            raise
        finally:
            self._flights.remove(flight)
            for following in self._flights[:1]:
                following.starts_at = max(following.starts_at, self._clock())
            self._on_change()

    def abandon(self) -> None:
        """Fail what is left after the end: a task that is cancelled at once never begins."""
        for flight in self._flights:
            fail(flight.batch, _stopped_midway)
        self._flights.clear()

    def is_live(self, entry: Entry[ItemT, ResultT]) -> bool:
        """Whether somebody waits for it; an expired one is told so."""
        now = self._clock()
        is_late = now >= entry.deadline
        if entry.future.done():
            self._observer.dropped("deadline" if is_late else "client_gone")
            return False
        if is_late:
            self._observer.dropped("deadline")
            entry.future.set_exception(
                DeadlineExceededError(
                    f"waited {now - entry.enqueued_at:.1f} s for the device, until the deadline"
                )
            )
            return False
        return True

    async def _try(
        self, batch: Batch[ItemT, ResultT], flight: Flight[ItemT, ResultT]
    ) -> list[Batch[ItemT, ResultT]]:
        """Serve one batch.

        Returns:
            what is to be tried again, in pieces.
        """
        key, began = batch[0].key, self._clock()
        try:
            staged = await self._stage(batch, flight)
            try:
                results = await self._runner.compute(
                    key, staged, lambda: _is_wanted(batch, self._clock())
                )
            finally:
                # until the batch before was done the device had no time for this one
                began, self._free_since = max(began, self._free_since), self._clock()
            if results is None:
                return [batch]
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items in, {len(results)} results out")
        except EngineUnavailableError as exc:
            detail, retry_after_s = exc.detail, exc.retry_after_s
            fail(batch, lambda: EngineUnavailableError(detail, retry_after_s=retry_after_s))
            return []
        except Exception as exc:  # noqa: BLE001 - a model may raise anything; none may hang for it
            return self._pieces(batch, exc)
        self._answer(batch, results, began, self._free_since - began)
        return []

    async def _stage(self, batch: Batch[ItemT, ResultT], flight: Flight[ItemT, ResultT]) -> Any:
        key, began = batch[0].key, self._clock()
        flight.is_staged = False
        try:
            staged = await self._runner.stage(key, [entry.item for entry in batch])
        finally:
            flight.is_staged = True
            self._on_change()
        self._preparation.observe(key.model, 1, self._clock() - began)
        return staged

    def _answer(
        self,
        batch: Batch[ItemT, ResultT],
        results: Iterable[ResultT],
        started: float,
        elapsed: float,
    ) -> None:
        key = batch[0].key
        self.throughput.observe(key.model, key.pixels * len(batch), elapsed)
        self._on_time(key, len(batch), elapsed)
        self._observer.batch_done(key, len(batch))
        for entry, result in zip(batch, results, strict=True):
            if not entry.future.done():
                waited = max(0.0, started - entry.enqueued_at)
                entry.future.set_result(Served(result, waited, elapsed, len(batch)))

    def _live(self, batch: Batch[ItemT, ResultT]) -> Batch[ItemT, ResultT]:
        return [entry for entry in batch if self.is_live(entry)]

    def _pieces(
        self, batch: Batch[ItemT, ResultT], cause: Exception
    ) -> list[Batch[ItemT, ResultT]]:
        """What to try again: halves, or batches that should fit into memory."""
        key, size = batch[0].key, len(batch)
        if size == 1:
            log.error("inference failed", exc_info=cause, extra={"model": key.model})
            fail(batch, lambda: InferenceFailedError("the model failed on this image"))
            return []
        if isinstance(cause, DeviceOutOfMemoryError):
            most = self.memory_caps[key] = min(self._half(size), self.memory_caps.get(key, size))
            self._on_memory_cap()
        else:
            most = -(-size // 2)
        log.warning("batch failed, trying smaller ones", extra={"size": size, "most": most})
        return [batch[start : start + most] for start in range(0, size, most)]


def _stopped_midway() -> ShuttingDownError:
    return ShuttingDownError("stopped while the image was computed")


def _is_wanted(batch: Batch[ItemT, ResultT], now: float) -> bool:
    return any(not entry.future.done() and now < entry.deadline for entry in batch)


def fail(entries: Iterable[Entry[ItemT, ResultT]], make_error: Callable[[], ServiceError]) -> None:
    """Give each one an error of its own: tracebacks grow where they are raised."""
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(make_error())
