"""Batching without a timer: a batch is whatever waits when the device becomes free."""

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.engine.throughput import Throughput
from service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    EngineUnavailableError,
    InferenceFailedError,
    QueueFullError,
    ServiceError,
    ShuttingDownError,
)

log = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Only entries with equal keys share a batch.

    Attributes:
        model: its name; speed is measured per model.
        shape: height and width of the network's input.
    """

    model: str
    shape: tuple[int, int]

    @property
    def pixels(self) -> int:
        """Of one entry."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Sizes of batches and of the queue; times in seconds.

    Attributes:
        batch_sizes: a batch that is cut short gets the largest of these that fits; none: any size.
    """

    max_batch_images: int
    max_batch_pixels: int
    max_delay_s: float
    max_age_s: float
    max_queue_images: int
    max_queue_pixels: int
    batch_sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Served(Generic[ResultT]):
    """A result and how it came about; times in seconds."""

    result: ResultT
    queue_s: float
    infer_s: float
    batch_size: int


class BatchObserver(Protocol):
    """Told what happens, for metrics."""

    def batch_done(self, key: BatchKey, images: int) -> None: ...

    def dropped(self, reason: str) -> None: ...


@dataclass(slots=True, eq=False)
class _Entry(Generic[ItemT, ResultT]):
    item: ItemT
    key: BatchKey
    deadline: float
    enqueued_at: float
    future: "asyncio.Future[Served[ResultT]]" = field(repr=False)


class Batcher(Generic[ItemT, ResultT]):
    """A bounded queue in front of one device. Everything runs on one event loop.

    Args:
        limits: an attribute, too, that may be replaced while nothing waits.
        run_batch: computes items of one key; one result per item, in order. An
            `EngineUnavailableError` fails the batch as a whole; after any other exception the
            batch is repeated in halves, so that only the culprit fails.
        clock: monotonic seconds, replaceable in tests.
    """

    def __init__(
        self,
        run_batch: Callable[[BatchKey, Sequence[ItemT]], Awaitable[Sequence[ResultT]]],
        limits: BatchLimits,
        observer: BatchObserver,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_batch = run_batch
        self.limits = limits
        self._observer = observer
        self._clock = clock
        # buckets in order of creation, so that equals are served in turn
        self._buckets: OrderedDict[BatchKey, deque[_Entry[ItemT, ResultT]]] = OrderedDict()
        self._throughput = Throughput()
        self._changed = asyncio.Event()
        self._running_until: float | None = None
        self._closed: str | None = None

    async def submit(self, item: ItemT, *, key: BatchKey, deadline: float) -> Served[ResultT]:
        """Wait for the result of one item. Cancelling drops it if it has not started.

        Raises:
            QueueFullError: refused at once.
            DeadlineUnreachableError: refused at once; the work ahead takes too long.
            DeadlineExceededError: expired while it waited.
            InferenceFailedError: this item makes the model fail.
            ShuttingDownError: closed.
            EngineUnavailableError: the device is gone.
        """
        self._admit(key, deadline)
        entry = _Entry[ItemT, ResultT](
            item, key, deadline, self._clock(), asyncio.get_running_loop().create_future()
        )
        self._buckets.setdefault(key, deque()).append(entry)
        self._changed.set()
        try:
            return await entry.future
        except asyncio.CancelledError:
            self._forget(entry)
            raise

    async def run(self) -> None:
        """Serve until cancelled; then fail whatever still waits."""
        try:
            while True:
                self._changed.clear()
                await self._wait_for_company()
                batch = self._take()
                if batch:
                    await self._serve(batch)
                else:
                    await self._changed.wait()
        finally:
            self._closed = self._closed or "the engine has stopped"
            self._fail_waiting()

    def close(self, reason: str) -> None:
        """Refuse new items; those that wait are still served."""
        self._closed = reason
        self._changed.set()

    def waiting(self) -> Iterator[tuple[BatchKey, int, float]]:
        """Key, images, and longest wait in seconds of every bucket."""
        now = self._clock()
        for key, bucket in self._buckets.items():
            yield key, len(bucket), max(0.0, now - bucket[0].enqueued_at)

    def batch_cap(self, key: BatchKey) -> int:
        """Most images of a batch."""
        limits = self.limits
        most = max(1, min(limits.max_batch_images, limits.max_batch_pixels // max(1, key.pixels)))
        return max((size for size in limits.batch_sizes if size <= most), default=most)

    def predicted_wait_s(self) -> float | None:
        """Time the present work needs; None while nothing has been measured."""
        queued = self._throughput.seconds(
            (key.model, key.pixels * len(bucket)) for key, bucket in self._buckets.items()
        )
        if queued is None or self._running_until is None:
            return queued
        return queued + max(0.0, self._running_until - self._clock())

    def retry_after_s(self) -> int:
        """Whole seconds after which the present queue should be done, at least 1."""
        return max(1, math.ceil(self.predicted_wait_s() or 0.0))

    def _admit(self, key: BatchKey, deadline: float) -> None:
        if self._closed is not None:
            raise ShuttingDownError(self._closed, retry_after_s=1)
        images = sum(len(bucket) for bucket in self._buckets.values())
        pixels = sum(other.pixels * len(bucket) for other, bucket in self._buckets.items())
        limits = self.limits
        # an image that is larger than the whole queue may still wait alone
        no_room = images and pixels + key.pixels > limits.max_queue_pixels
        if images >= limits.max_queue_images or no_room:
            wait = self.retry_after_s()
            raise QueueFullError(
                f"{images} images ({pixels} pixels) waiting, limits {limits.max_queue_images} "
                f"and {limits.max_queue_pixels}; retry in {wait} s",
                retry_after_s=wait,
            )
        self._refuse_if_late(key, deadline)

    def _refuse_if_late(self, key: BatchKey, deadline: float) -> None:
        now = self._clock()
        if now >= deadline:
            self._observer.dropped("deadline")
            raise DeadlineExceededError("the deadline passed before the image reached the queue")
        # an idle device takes anything: that is how a wrong estimate gets corrected
        if not self._buckets and self._running_until is None:
            return
        ahead = self.predicted_wait_s()
        own = self._throughput.seconds([(key.model, key.pixels)])
        if ahead is not None and own is not None and now + ahead + own > deadline:
            raise DeadlineUnreachableError(
                f"the work ahead takes about {ahead:.1f} s, the deadline is in "
                f"{deadline - now:.1f} s",
                retry_after_s=self.retry_after_s(),
            )

    def _forget(self, entry: _Entry[ItemT, ResultT]) -> None:
        bucket = self._buckets.get(entry.key)
        if bucket is None or entry not in bucket:
            return
        bucket.remove(entry)
        if not bucket:
            del self._buckets[entry.key]
        self._observer.dropped("deadline" if self._clock() >= entry.deadline else "client_gone")
        self._changed.set()

    async def _wait_for_company(self) -> None:
        """Hold back, if so configured, until a batch is full or its oldest has waited enough."""
        delay = self.limits.max_delay_s
        while delay > 0 and self._buckets and self._closed is None:
            oldest = min(bucket[0].enqueued_at for bucket in self._buckets.values())
            remaining = oldest + delay - self._clock()
            is_full = any(len(b) >= self.batch_cap(k) for k, b in self._buckets.items())
            if is_full or remaining <= 0:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(remaining):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Entry[ItemT, ResultT]]:
        """The next batch; expired and abandoned entries are dropped on the way."""
        self._drop_dead()
        if not self._buckets:
            return []
        now = self._clock()
        oldest = min(self._buckets, key=lambda key: self._buckets[key][0].enqueued_at)
        largest = max(
            self._buckets, key=lambda key: min(len(self._buckets[key]), self.batch_cap(key))
        )
        waited = now - self._buckets[oldest][0].enqueued_at
        key = oldest if waited > self.limits.max_age_s else largest
        bucket = self._buckets[key]
        batch = [bucket.popleft() for _ in range(min(len(bucket), self.batch_cap(key)))]
        del self._buckets[key]
        if bucket:
            self._buckets[key] = bucket
        return batch

    def _drop_dead(self) -> None:
        now = self._clock()
        for key in list(self._buckets):
            live = deque(entry for entry in self._buckets[key] if self._is_live(entry, now))
            if live:
                self._buckets[key] = live
            else:
                del self._buckets[key]

    def _is_live(self, entry: _Entry[ItemT, ResultT], now: float) -> bool:
        if entry.future.done():
            self._observer.dropped("client_gone")
            return False
        if now >= entry.deadline:
            self._observer.dropped("deadline")
            entry.future.set_exception(
                DeadlineExceededError(
                    f"waited {now - entry.enqueued_at:.1f} s for the device, until the deadline"
                )
            )
            return False
        return True

    async def _serve(self, batch: list[_Entry[ItemT, ResultT]]) -> None:
        """Compute a batch and resolve each of its futures, whatever happens."""
        key, started = batch[0].key, self._clock()
        estimate = self._throughput.seconds([(key.model, key.pixels * len(batch))])
        self._running_until = started + (estimate or 0.0)
        try:
            results = await self._run_batch(key, [entry.item for entry in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items in, {len(results)} results out")
        except EngineUnavailableError as exc:
            detail, retry_after_s = exc.detail, exc.retry_after_s
            _fail(batch, lambda: EngineUnavailableError(detail, retry_after_s=retry_after_s))
            return
        except Exception as exc:  # noqa: BLE001 - a model may raise anything; none may hang for it
            await self._serve_halves(batch, exc)
            return
        except BaseException:  # cancelled: no future may stay pending
            _fail(batch, _stopped_midway)
            raise
        finally:
            self._running_until = None
        elapsed = self._clock() - started
        self._throughput.observe(key.model, key.pixels * len(batch), elapsed)
        self._observer.batch_done(key, len(batch))
        for entry, result in zip(batch, results, strict=True):
            if not entry.future.done():
                waited = started - entry.enqueued_at
                entry.future.set_result(Served(result, waited, elapsed, len(batch)))

    async def _serve_halves(self, batch: list[_Entry[ItemT, ResultT]], cause: Exception) -> None:
        if len(batch) == 1:
            log.error("inference failed", exc_info=cause, extra={"model": batch[0].key.model})
            _fail(batch, lambda: InferenceFailedError("the model failed on this image"))
            return
        log.warning("batch failed, trying its halves", extra={"size": len(batch)})
        middle = len(batch) // 2
        halves = [batch[:middle], batch[middle:]]
        try:
            while halves:
                now = self._clock()
                half = [entry for entry in halves.pop(0) if self._is_live(entry, now)]
                if half:
                    await self._serve(half)
        except BaseException:
            for rest in halves:
                _fail(rest, _stopped_midway)
            raise

    def _fail_waiting(self) -> None:
        for bucket in self._buckets.values():
            _fail(bucket, lambda: ShuttingDownError(self._closed or "stopped"))
        self._buckets.clear()


def _stopped_midway() -> ShuttingDownError:
    return ShuttingDownError("stopped while the image was computed")


def _fail(
    entries: Iterable[_Entry[ItemT, ResultT]], make_error: Callable[[], ServiceError]
) -> None:
    """Give each one an error of its own: tracebacks grow where they are raised."""
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(make_error())
