"""What waits for the device, by shape and by urgency; adding and removing take constant time."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Generic, TypeVar

from service.engine.base import Priority
from service.engine.batch_types import BatchKey, Served

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Urgency(IntEnum):
    """The order in which the device takes things."""

    AGED = 0
    HIGH = 1
    NORMAL = 2


_BY_PRIORITY: Final = {Priority.HIGH: Urgency.HIGH, Priority.NORMAL: Urgency.NORMAL}


@dataclass(slots=True, eq=False)
class Entry(Generic[ItemT, ResultT]):
    """One item that waits; times in `time.monotonic()` seconds."""

    item: ItemT
    key: BatchKey
    deadline: float
    enqueued_at: float
    priority: Priority
    future: "asyncio.Future[Served[ResultT]]" = field(repr=False)
    urgency: Urgency = field(init=False)
    bucket: "Bucket[ItemT, ResultT] | None" = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self.urgency = _BY_PRIORITY[self.priority]


class Bucket(Generic[ItemT, ResultT]):
    """Entries of one key, the oldest first.

    Attributes:
        cap: most images of a batch.
        images: that wait.
        lanes: by urgency; the values mean nothing, the order does.
    """

    __slots__ = ("cap", "images", "key", "lanes", "pixels")

    def __init__(self, key: BatchKey, cap: int) -> None:
        self.key = key
        self.cap = cap
        self.pixels = key.pixels
        self.images = 0
        self.lanes: tuple[OrderedDict[Entry[ItemT, ResultT], None], ...] = tuple(
            OrderedDict() for _ in Urgency
        )

    @property
    def oldest_at(self) -> float:
        """When the one that has waited longest came."""
        return min(next(iter(lane)).enqueued_at for lane in self.lanes if lane)


class BatchQueue(Generic[ItemT, ResultT]):
    """Buckets of entries, and how much they hold.

    Attributes:
        images: that wait.
        pixels: of all of them together.
    """

    def __init__(self, cap: Callable[[BatchKey], int]) -> None:
        self.images = 0
        self.pixels = 0
        self._cap = cap
        # in the order in which they were served, so that equals are served in turn
        self._buckets: OrderedDict[BatchKey, Bucket[ItemT, ResultT]] = OrderedDict()
        # pixels by model, for each urgency
        self._work: tuple[dict[str, int], ...] = tuple({} for _ in Urgency)

    def add(self, entry: Entry[ItemT, ResultT]) -> bool:
        """Returns whether the batch to be made of it may be one to start now."""
        bucket = self._buckets.get(entry.key)
        if bucket is None:
            bucket = self._buckets[entry.key] = Bucket(entry.key, self._cap(entry.key))
        entry.bucket = bucket
        bucket.lanes[entry.urgency][entry] = None
        self._count(bucket, entry.urgency, 1)
        return self.images == 1 or bucket.images == bucket.cap

    def remove(self, entry: Entry[ItemT, ResultT]) -> bool:
        """Returns whether it was still waiting."""
        bucket = entry.bucket
        if bucket is None or entry not in bucket.lanes[entry.urgency]:
            return False
        del bucket.lanes[entry.urgency][entry]
        self._count(bucket, entry.urgency, -1)
        if not bucket.images:
            del self._buckets[bucket.key]
        return True

    def take(
        self,
        now: float,
        max_age_s: float,
        is_live: Callable[[Entry[ItemT, ResultT]], bool],
        most: Callable[[BatchKey, int], int],
    ) -> list[Entry[ItemT, ResultT]]:
        """The next batch, empty if nothing in its bucket was live.

        Args:
            most: how many images to take of so many that could be in one batch.
        """
        bucket = self._choose(now, max_age_s)
        if bucket is None:
            return []
        wanted = most(bucket.key, min(bucket.images, bucket.cap))
        batch: list[Entry[ItemT, ResultT]] = []
        for urgency in Urgency:
            lane = bucket.lanes[urgency]
            while lane and len(batch) < wanted:
                entry, _ = lane.popitem(last=False)
                self._count(bucket, urgency, -1)
                if is_live(entry):
                    batch.append(entry)
        if bucket.images:
            self._buckets.move_to_end(bucket.key)
        else:
            del self._buckets[bucket.key]
        return batch

    def next_key(self, now: float, max_age_s: float) -> BatchKey | None:
        """Of the batch that `take` would return."""
        bucket = self._choose(now, max_age_s)
        return None if bucket is None else bucket.key

    def has_full_batch(self) -> bool:
        return any(bucket.images >= bucket.cap for bucket in self._buckets.values())

    def oldest_at(self) -> float:
        """When the one that has waited longest came; infinite when nothing waits."""
        return min((b.oldest_at for b in self._buckets.values()), default=float("inf"))

    def promote(self, now: float, max_age_s: float) -> None:
        """What has waited longer than `max_age_s` becomes the most urgent."""
        for bucket in self._buckets.values():
            aged = bucket.lanes[Urgency.AGED]
            for urgency in (Urgency.HIGH, Urgency.NORMAL):
                lane = bucket.lanes[urgency]
                while lane and now - next(iter(lane)).enqueued_at > max_age_s:
                    entry, _ = lane.popitem(last=False)
                    self._count(bucket, urgency, -1)
                    entry.urgency = Urgency.AGED
                    aged[entry] = None
                    self._count(bucket, Urgency.AGED, 1)

    def work_before(self, priority: Priority) -> Iterator[tuple[str, int]]:
        """(model, pixels) of all that goes before a new entry, as far as `promote` knows."""
        for urgency in Urgency:
            if urgency <= _BY_PRIORITY[priority]:
                yield from self._work[urgency].items()

    def company(self, key: BatchKey) -> int:
        """Images of the batch of a new entry, itself among them, if it came next."""
        bucket = self._buckets.get(key)
        return 1 if bucket is None else min(bucket.cap, bucket.images + 1)

    def buckets(self) -> Iterator[Bucket[ItemT, ResultT]]:
        return iter(self._buckets.values())

    def apply_caps(self) -> None:
        """Ask for the caps anew."""
        for bucket in self._buckets.values():
            bucket.cap = self._cap(bucket.key)

    def drain(self) -> list[Entry[ItemT, ResultT]]:
        """Everything that waits, which waits no longer."""
        entries = [
            entry for bucket in self._buckets.values() for lane in bucket.lanes for entry in lane
        ]
        for entry in entries:
            self.remove(entry)
        return entries

    def _count(self, bucket: Bucket[ItemT, ResultT], urgency: Urgency, images: int) -> None:
        pixels = images * bucket.pixels
        bucket.images += images
        self.images += images
        self.pixels += pixels
        work, model = self._work[urgency], bucket.key.model
        work[model] = work.get(model, 0) + pixels

    def _choose(self, now: float, max_age_s: float) -> Bucket[ItemT, ResultT] | None:
        self.promote(now, max_age_s)
        buckets = list(self._buckets.values())
        aged = [bucket for bucket in buckets if bucket.lanes[Urgency.AGED]]
        if aged:
            return min(aged, key=lambda bucket: bucket.oldest_at)
        urgent = [bucket for bucket in buckets if bucket.lanes[Urgency.HIGH]]
        return max(
            urgent or buckets, key=lambda bucket: min(bucket.images, bucket.cap), default=None
        )
