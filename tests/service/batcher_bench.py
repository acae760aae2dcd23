"""A batcher on a bench: a device made of futures, a clock that is set, counted events."""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.engine.base import Priority
from service.engine.batch_types import BatchKey, BatchLimits, Served
from service.engine.batcher import Batcher
from service.engine.device import DeviceOutOfMemoryError

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


class StagedItems(list[str]):
    """A staged batch that can be watched."""


class Device:
    """Records batches; holds each one until released, unless it is open.

    Attributes:
        staged: key and items of each batch that was staged.
        batches: of each one that was computed.
        memory_images: larger batches find no memory.
        on_device: staged batches that somebody still holds.
    """

    def __init__(self, clock: Clock) -> None:
        self.staged: list[tuple[BatchKey, list[str]]] = []
        self.batches: list[tuple[BatchKey, list[str]]] = []
        self.gate = asyncio.Semaphore(0)
        self.stage_gate: asyncio.Semaphore | None = None
        self.is_open = False
        self.seconds_per_batch = 0.0
        self.seconds_per_stage = 0.0
        self.failure: Exception | None = None
        self.stage_failure: Exception | None = None
        self.memory_images = 1000
        self.on_device: weakref.WeakSet[Any] = weakref.WeakSet()
        self._clock = clock
        self._turn = asyncio.Lock()

    async def stage(self, key: BatchKey, items: Sequence[str]) -> StagedItems:
        self.staged.append((key, list(items)))
        if self.stage_gate is not None:
            await self.stage_gate.acquire()
        self._clock.now += self.seconds_per_stage
        if self.stage_failure is not None:
            raise _anew(self.stage_failure)
        staged = StagedItems(items)
        token = _Token()
        staged.token = token  # type: ignore[attr-defined]
        self.on_device.add(token)
        return staged

    async def compute(
        self, key: BatchKey, staged: StagedItems, is_wanted: Callable[[], bool]
    ) -> list[str] | None:
        async with self._turn:
            if not is_wanted():
                return None
            self.batches.append((key, list(staged)))
            if not self.is_open:
                await self.gate.acquire()
            self._clock.now += self.seconds_per_batch
            if self.failure is not None:
                raise _anew(self.failure)
            if len(staged) > self.memory_images:
                raise DeviceOutOfMemoryError("no memory")
            if any(item.startswith(POISON) for item in staged):
                raise RuntimeError("cannot compute this")
            return [f"{item}!" for item in staged]

    @property
    def seen(self) -> list[str]:
        return [item for _, items in self.batches for item in items]


def _anew(error: Exception) -> Exception:
    """One that is raised again and again would hold the frames of every time."""
    return type(error)(str(error))


class _Token:
    """Lives as long as its staged batch."""


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
            self.device,
            BatchLimits(**chosen),
            self.counts,
            clock=self.clock,
        )
        self.runner = asyncio.create_task(self.batcher.run())

    def submit(
        self,
        item: str,
        key: BatchKey = SMALL,
        *,
        within: float = 1e6,
        priority: Priority = Priority.NORMAL,
    ) -> "asyncio.Task[Served[str]]":
        deadline = self.clock.now + within
        return asyncio.create_task(
            self.batcher.submit(item, key=key, deadline=deadline, priority=priority)
        )

    async def occupy(self, item: str = "first", key: BatchKey = SMALL) -> "asyncio.Task[object]":
        """Make the device busy with one item."""
        task = self.submit(item, key)
        await settle()
        assert self.device.batches[-1][1] == [item]
        return task

    async def fill(self) -> "list[asyncio.Task[object]]":
        """Make the device busy and have one more batch prepared: all that comes now waits."""
        tasks: list[asyncio.Task[object]] = [await self.occupy()]
        tasks.append(self.submit("prepared"))
        await settle()
        assert self.device.staged[-1][1] == ["prepared"]
        return tasks

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
