"""Random histories: whatever happens, every future is resolved and nothing is left behind."""

import asyncio
import logging
import random

import pytest

from service.engine.base import Priority
from service.engine.batch_types import BatchKey, Served
from service.errors import EngineUnavailableError, ServiceError
from tests.service.batcher_bench import POISON, Bench, settle

pytestmark = pytest.mark.anyio

KEYS = [BatchKey("a", (10, 10)), BatchKey("a", (20, 10)), BatchKey("b", (10, 10))]


class History:
    """One random sequence of events."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - nothing is secret here
        self.bench = Bench(
            max_batch_images=self.random.choice([1, 3, 8]),
            max_batch_pixels=self.random.choice([500, 100_000]),
            max_age_s=self.random.choice([0.0, 3.0, 100.0]),
            max_queue_images=self.random.choice([4, 30]),
            batch_sizes=self.random.choice([(), (1, 2, 4, 8), (2, 5)]),
        )
        self.bench.device.memory_images = self.random.choice([1, 2, 5, 100])
        self.bench.device.seconds_per_batch = self.random.choice([0.0, 0.5, 4.0])
        self.bench.device.seconds_per_stage = self.random.choice([0.0, 0.2])
        if self.random.random() < 0.5:
            self.bench.device.stage_gate = asyncio.Semaphore(0)
        self.tasks: list[tuple[str, asyncio.Task[Served[str]]]] = []

    async def go(self, *, steps: int) -> None:
        events = [self._submit, self._submit, self._submit, self._cancel, self._release]
        events += [self._release, self._pass_time, self._break_or_mend]
        for _ in range(steps):
            self.random.choice(events)()
            if self.random.random() < 0.5:
                await asyncio.sleep(0)
            if self.random.random() < 0.1:
                await settle()
            self._check()

    def _submit(self) -> None:
        number = len(self.tasks)
        key = self.random.choice(KEYS)
        poison = POISON if self.random.random() < 0.05 else ""
        item = f"{poison}{number}:{KEYS.index(key)}"
        task = self.bench.submit(
            item,
            key,
            within=self.random.choice([0.0, 2.0, 50.0, 1e6]),
            priority=self.random.choice(list(Priority)),
        )
        self.tasks.append((item, task))

    def _cancel(self) -> None:
        if self.tasks:
            self.random.choice(self.tasks)[1].cancel()

    def _release(self) -> None:
        self.bench.release()
        if self.bench.device.stage_gate is not None:
            self.bench.device.stage_gate.release()

    def _pass_time(self) -> None:
        self.bench.clock.now += self.random.choice([0.1, 1.0, 10.0])

    def _break_or_mend(self) -> None:
        device = self.bench.device
        error = self.random.choice([None, None, RuntimeError("no"), EngineUnavailableError("no")])
        if self.random.random() < 0.5:
            device.failure = error
        else:
            device.stage_failure = error

    def _check(self) -> None:
        batcher, device = self.bench.batcher, self.bench.device
        for key, items in (*device.staged[-2:], *device.batches[-2:]):
            assert {item.rsplit(":")[1] for item in items} == {str(KEYS.index(key))}
            assert len(items) <= batcher.limits.cap(key)
        assert len(device.on_device) <= 3
        assert len(batcher._pipeline._flights) <= 2
        assert batcher._queue.images == sum(images for _, images, _ in batcher.waiting())
        assert batcher._queue.images <= batcher.limits.max_queue_images
        assert (batcher.predicted_wait_s() or 0.0) >= 0.0

    async def finish(self) -> None:
        device = self.bench.device
        device.failure = device.stage_failure = device.stage_gate = None
        self.bench.open()
        await settle()

    def assert_clean(self) -> None:
        queue = self.bench.batcher._queue
        assert (queue.images, queue.pixels, list(queue.buckets())) == (0, 0, [])
        assert all(pixels == 0 for work in queue._work for pixels in work.values())
        assert not self.bench.batcher.is_busy
        assert not self.bench.device.on_device


async def answers(history: History) -> list[object]:
    tasks = [task for _, task in history.tasks]
    gathered = asyncio.gather(*tasks, return_exceptions=True)
    return list(await asyncio.wait_for(gathered, timeout=10))


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # a record of a failure would hold the frames that hold the batch
    caplog.set_level(logging.CRITICAL, logger="service.engine.pipeline")


@pytest.mark.parametrize("seed", range(60))
async def test_a_random_history_that_ends_well(seed: int) -> None:
    history = History(seed)
    await history.go(steps=300)
    gate = history.bench.device.stage_gate
    if gate is not None:
        for _ in range(1000):
            gate.release()
    await history.finish()
    for (item, _), answer in zip(history.tasks, await answers(history), strict=True):
        if isinstance(answer, Served):
            assert answer.result == f"{item}!"
        else:
            assert isinstance(answer, (ServiceError, asyncio.CancelledError)), answer
    await settle()
    history.assert_clean()
    assert (await history.bench.submit("0:0", KEYS[0])).result == "0:0!"
    await history.bench.stop()


@pytest.mark.parametrize("seed", range(60, 100))
async def test_a_random_history_that_is_cut_off(seed: int) -> None:
    history = History(seed)
    await history.go(steps=history.random.randrange(5, 100))
    await history.bench.stop()
    for answer in await answers(history):
        assert isinstance(answer, (Served, ServiceError, asyncio.CancelledError)), answer
    await settle()
    history.assert_clean()
