"""Batching without a delay: a batch is whatever waits when the device is about to become free."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final, Generic, TypeVar

from service.engine.base import Priority
from service.engine.batch_queue import BatchQueue, Entry
from service.engine.batch_sizing import BatchSizing
from service.engine.batch_types import BatchKey, BatchLimits, BatchObserver, BatchRunner, Served
from service.engine.pipeline import Pipeline, fail
from service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    QueueFullError,
    ShuttingDownError,
)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
# a batch is prepared so many times its usual time of preparation before the device is free
_HEAD_START: Final = 2.0
# speeds vary, and an answer just too late has cost as much as one in time
_CAUTION: Final = 1.2


class Batcher(Generic[ItemT, ResultT]):
    """A bounded queue in front of one device. Everything runs on one event loop.

    While one batch is computed the next one is prepared: at once when it is full, else only just
    in time, so that it takes along what has come until then.

    Args:
        runner: what prepares and computes.
        limits: an attribute, too, that may be replaced while nothing waits.
        clock: monotonic seconds, replaceable in tests.
    """

    def __init__(
        self,
        runner: BatchRunner[ItemT, ResultT],
        limits: BatchLimits,
        observer: BatchObserver,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._observer = observer
        self._clock = clock
        self._queue: BatchQueue[ItemT, ResultT] = BatchQueue(self.batch_cap)
        self._sizing = BatchSizing()
        self._changed = asyncio.Event()
        self._pipeline: Pipeline[ItemT, ResultT] = Pipeline(
            runner,
            observer,
            clock,
            half=lambda images: self.limits.half(images),
            on_time=self.learn,
            on_change=self._changed.set,
            on_memory_cap=self._queue.apply_caps,
        )
        self._closed: str | None = None

    async def submit(
        self,
        item: ItemT,
        *,
        key: BatchKey,
        deadline: float,
        priority: Priority = Priority.NORMAL,
    ) -> Served[ResultT]:
        """Wait for the result of one item. Cancelling drops it if it has not started.

        Raises:
            QueueFullError: refused at once.
            DeadlineUnreachableError: refused at once; the work ahead takes too long.
            DeadlineExceededError: expired while it waited.
            InferenceFailedError: this item makes the model fail.
            ShuttingDownError: closed.
            EngineUnavailableError: the device is gone.
        """
        now = self._clock()
        self._admit(key, deadline, priority, now)
        future = asyncio.get_running_loop().create_future()
        entry = Entry[ItemT, ResultT](item, key, deadline, now, priority, future)
        if self._queue.add(entry):
            self._changed.set()
        try:
            return await entry.future
        except asyncio.CancelledError:
            if self._queue.remove(entry):
                is_late = self._clock() >= deadline
                self._observer.dropped("deadline" if is_late else "client_gone")
            raise

    async def run(self) -> None:
        """Serve until cancelled; then fail whatever still waits.

        Raises:
            ExceptionGroup: a bug, or one of the observer.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._wait_for_the_moment()
                    batch = self._take()
                    if batch:
                        tasks.create_task(self._pipeline.serve(self._pipeline.begin(batch)))
        finally:
            self._pipeline.abandon()
            reason = self._closed = self._closed or "the engine has stopped"
            fail(self._queue.drain(), lambda: ShuttingDownError(reason))

    def close(self, reason: str) -> None:
        """Refuse new items; those that wait are still served."""
        self._closed = reason
        self._changed.set()

    @property
    def is_busy(self) -> bool:
        """Whether a batch is being prepared or computed."""
        return self._pipeline.is_busy

    def waiting(self) -> Iterator[tuple[BatchKey, int, float]]:
        """Key, images, and longest wait in seconds of every bucket."""
        now = self._clock()
        for bucket in self._queue.buckets():
            yield bucket.key, bucket.images, max(0.0, now - bucket.oldest_at)

    def batch_cap(self, key: BatchKey) -> int:
        """Most images of a batch."""
        return self.limits.cap(key, memory_cap=self._pipeline.memory_caps.get(key))

    def learn(self, key: BatchKey, images: int, seconds: float) -> None:
        """A batch of so many images took so long on the device."""
        self._sizing.observe(key, self.limits.computed_as(images), seconds)

    def memory_caps(self) -> Mapping[BatchKey, int]:
        """Most images of a batch where more did not fit into the device's memory."""
        return dict(self._pipeline.memory_caps)

    def predicted_wait_s(self, priority: Priority = Priority.NORMAL) -> float | None:
        """Time the work takes that goes before a new item; None while nothing has been measured.

        Later items of higher priority are not foreseen, nor are those of lower priority that reach
        the age limit meanwhile.
        """
        now = self._clock()
        if priority is not Priority.NORMAL:
            self._queue.promote(now, self.limits.max_age_s)
        queued = self._pipeline.throughput.seconds(self._queue.work_before(priority))
        if queued is None:
            return None
        return queued + (self._pipeline.free_in_s(now) or 0.0)

    def retry_after_s(self, priority: Priority = Priority.NORMAL) -> int:
        """Whole seconds after which the present queue should be done, at least 1."""
        return max(1, math.ceil(self.predicted_wait_s(priority) or 0.0))

    def refuse_if_hopeless(self, deadline: float, priority: Priority) -> None:
        """What would be refused whatever it is, before anything is spent on it.

        Raises:
            DeadlineUnreachableError: the work ahead alone takes too long.
        """
        if self._queue.images or self._pipeline.is_busy:
            self._refuse_if_late(deadline, self.predicted_wait_s(priority), own_s=0.0)

    def _admit(self, key: BatchKey, deadline: float, priority: Priority, now: float) -> None:
        if self._closed is not None:
            raise ShuttingDownError(self._closed, retry_after_s=1)
        limits, images, pixels = self.limits, self._queue.images, self._queue.pixels
        # an image that is larger than the whole queue may still wait alone
        no_room = images and pixels + key.pixels > limits.max_queue_pixels
        if images >= limits.max_queue_images or no_room:
            wait = self.retry_after_s(priority)
            raise QueueFullError(
                f"{images} images ({pixels} pixels) waiting, limits {limits.max_queue_images} "
                f"and {limits.max_queue_pixels}; retry in {wait} s",
                retry_after_s=wait,
            )
        if now >= deadline:
            self._observer.dropped("deadline")
            raise DeadlineExceededError("the deadline passed before the image reached the queue")
        # an idle device takes anything: that is how a wrong estimate gets corrected
        if images or self._pipeline.is_busy:
            # it is not done before its whole batch is
            pixels = key.pixels * self._queue.company(key)
            own_s = self._pipeline.throughput.seconds([(key.model, pixels)])
            self._refuse_if_late(deadline, self.predicted_wait_s(priority), own_s=own_s or 0.0)

    def _refuse_if_late(self, deadline: float, ahead_s: float | None, *, own_s: float) -> None:
        left_s = deadline - self._clock()
        if ahead_s is not None and _CAUTION * (ahead_s + own_s) > left_s:
            raise DeadlineUnreachableError(
                f"the work ahead takes about {ahead_s:.1f} s, the deadline is in {left_s:.1f} s",
                retry_after_s=max(1, math.ceil(ahead_s)),
            )

    async def _wait_for_the_moment(self) -> None:
        """Until the next batch is to be prepared."""
        while (seconds := self._hold_s()) > 0:
            self._changed.clear()
            if seconds == math.inf:
                await self._changed.wait()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    def _hold_s(self) -> float:
        """How long not to take a batch; infinite: until something changes."""
        if not self._queue.images or not self._pipeline.has_room:
            return math.inf
        if self._queue.has_full_batch():
            return 0.0
        now, hold = self._clock(), 0.0
        if self.limits.max_delay_s > 0 and self._closed is None:
            hold = self._queue.oldest_at() + self.limits.max_delay_s - now
        key = self._queue.next_key(now, self.limits.max_age_s)
        free_in = self._pipeline.free_in_s(now)
        if key is not None and free_in:
            # an earlier start would win nothing, and lose company
            hold = max(hold, free_in - _HEAD_START * self._pipeline.preparation_s(key.model))
        return hold

    def _take(self) -> list[Entry[ItemT, ResultT]]:
        """The next batch; expired and abandoned entries are dropped on the way."""
        return self._queue.take(
            self._clock(),
            self.limits.max_age_s,
            self._pipeline.is_live,
            lambda key, images: self._sizing.best(key, images, self.limits.batch_sizes),
        )
