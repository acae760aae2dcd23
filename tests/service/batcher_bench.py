"""A batcher on a bench: a device made of futures, a clock that is set, counted events."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.engine.batcher import Batcher, BatchKey, BatchLimits, Served

SMALL = BatchKey("classify", (10, 10))
LARGE = BatchKey("detect", (20, 20))
POISON = "poison"


class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Counts:
    batches: list[tuple[BatchKey, int]] = field(default_factory=list)
    drops: list[str] = field(default_factory=list)

    def batch_done(self, key: BatchKey, images: int) -> None:
        self.batches.append((key, images))

    def dropped(self, reason: str) -> None:
        self.drops.append(reason)


class Device:
    """Records batches; holds each one until released, unless it is open."""

    def __init__(self, clock: Clock) -> None:
        self.batches: list[tuple[BatchKey, list[str]]] = []
        self.gate = asyncio.Semaphore(0)
        self.is_open = False
        self.seconds_per_batch = 0.0
        self.failure: Exception | None = None
        self._clock = clock

    async def run(self, key: BatchKey, items: Sequence[str]) -> list[str]:
        self.batches.append((key, list(items)))
        if not self.is_open:
            await self.gate.acquire()
        self._clock.now += self.seconds_per_batch
        if self.failure is not None:
            raise self.failure
        if POISON in items:
            raise RuntimeError("cannot compute this")
        return [f"{item}!" for item in items]

    @property
    def seen(self) -> list[str]:
        return [item for _, items in self.batches for item in items]


class Bench:
    """A running batcher and everything around it."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.counts = Counts()
        self.device = Device(self.clock)
        chosen: dict[str, Any] = {
            "max_batch_images": 4,
            "max_batch_pixels": 100_000,
            "max_delay_s": 0.0,
            "max_age_s": 60.0,
            "max_queue_images": 100,
            "max_queue_pixels": 1_000_000,
            **limits,
        }
        self.batcher: Batcher[str, str] = Batcher(
            self.device.run,
            BatchLimits(**chosen),
            self.counts,
            clock=self.clock,
        )
        self.runner = asyncio.create_task(self.batcher.run())

    def submit(
        self, item: str, key: BatchKey = SMALL, *, within: float = 1e6
    ) -> "asyncio.Task[Served[str]]":
        deadline = self.clock.now + within
        return asyncio.create_task(self.batcher.submit(item, key=key, deadline=deadline))

    async def occupy(self, item: str = "first", key: BatchKey = SMALL) -> "asyncio.Task[object]":
        """Make the device busy with one item."""
        task = self.submit(item, key)
        await settle()
        assert self.device.batches[-1][1] == [item]
        return task

    def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self.device.gate.release()

    def open(self) -> None:
        self.device.is_open = True
        self.release(100)

    async def stop(self) -> None:
        self.runner.cancel()
        await asyncio.gather(self.runner, return_exceptions=True)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
