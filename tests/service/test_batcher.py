"""The batcher with a device made of futures: every batch is released by the test."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from service.engine.batcher import Batcher, BatchKey, BatchLimits, Served
from service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    EngineUnavailableError,
    InferenceFailedError,
    QueueFullError,
    ShuttingDownError,
)

pytestmark = pytest.mark.anyio

SMALL = BatchKey("classify", (10, 10))
LARGE = BatchKey("detect", (20, 20))
POISON = "poison"


@dataclass
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

    def __init__(self, **limits: float) -> None:
        self.clock = Clock()
        self.counts = Counts()
        self.device = Device(self.clock)
        chosen = {
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
            BatchLimits(**chosen),  # type: ignore[arg-type]
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


async def test_what_arrives_while_the_device_is_busy_becomes_one_batch() -> None:
    bench = Bench()
    first = await bench.occupy()
    rest = [bench.submit(name) for name in "abc"]
    await settle()
    assert len(bench.device.batches) == 1
    bench.open()
    answers = [(await task).result for task in (first, *rest)]
    assert answers == ["first!", "a!", "b!", "c!"]
    assert [items for _, items in bench.device.batches] == [["first"], ["a", "b", "c"]]
    assert bench.counts.batches == [(SMALL, 1), (SMALL, 3)]
    await bench.stop()


async def test_a_free_device_takes_an_item_at_once() -> None:
    bench = Bench()
    bench.open()
    served = await bench.submit("alone")
    assert (served.result, served.batch_size, served.queue_s) == ("alone!", 1, 0.0)
    await bench.stop()


async def test_shapes_and_models_are_never_mixed() -> None:
    bench = Bench()
    await bench.occupy()
    other_model = BatchKey("other", SMALL.shape)
    tasks = [bench.submit(f"{key.model}{i}", key) for i in range(3) for key in (SMALL, LARGE)]
    tasks.append(bench.submit("other", other_model))
    bench.open()
    await asyncio.gather(*tasks)
    assert sorted(len(items) for _, items in bench.device.batches) == [1, 1, 3, 3]
    for key, items in bench.device.batches[1:]:
        assert all(item.startswith(key.model) for item in items)
    await bench.stop()


async def test_batches_are_limited_by_count_and_by_pixels() -> None:
    bench = Bench(max_batch_images=3, max_batch_pixels=800)
    await bench.occupy()
    small = [bench.submit(f"s{i}") for i in range(7)]
    large = [bench.submit(f"l{i}", LARGE) for i in range(4)]
    bench.open()
    await asyncio.gather(*small, *large)
    assert max(len(items) for key, items in bench.device.batches if key == SMALL) == 3
    assert max(len(items) for key, items in bench.device.batches if key == LARGE) == 2
    await bench.stop()


async def test_an_image_above_the_batch_limit_runs_alone() -> None:
    bench = Bench(max_batch_pixels=10)
    bench.open()
    assert (await bench.submit("big", LARGE)).batch_size == 1
    await bench.stop()


async def test_the_largest_bucket_goes_first() -> None:
    bench = Bench()
    await bench.occupy()
    tasks = [bench.submit("rare", LARGE), *[bench.submit(name) for name in "abc"]]
    bench.open()
    await asyncio.gather(*tasks)
    assert [items for _, items in bench.device.batches[1:]] == [["a", "b", "c"], ["rare"]]
    await bench.stop()


async def test_a_rare_shape_does_not_starve() -> None:
    bench = Bench(max_age_s=5.0, max_batch_images=2)
    await bench.occupy()
    rare = bench.submit("rare", LARGE)
    others = []
    for round_number in range(10):
        others += [bench.submit(f"{name}{round_number}") for name in "ab"]
        await settle()
        bench.clock.now += 1.0
        bench.release()
        await settle()
    position = bench.device.seen.index("rare")
    assert 8 <= position <= 12, "goes to the front once it is older than the limit, not before"
    bench.open()
    await asyncio.gather(rare, *others)
    await bench.stop()


async def test_a_poisoned_item_fails_alone() -> None:
    bench = Bench(max_batch_images=8)
    await bench.occupy()
    names = ["a", "b", POISON, "c", "d"]
    tasks = [bench.submit(name) for name in names]
    bench.open()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[2], InferenceFailedError)
    assert [r.result for r in results if isinstance(r, Served)] == ["a!", "b!", "c!", "d!"]
    assert (await bench.submit("later")).result == "later!"
    await bench.stop()


async def test_a_wrong_number_of_results_fails_and_does_not_hang() -> None:
    bench = Bench()

    async def lose_one(key: BatchKey, items: Sequence[str]) -> list[str]:
        return list(items)[1:]

    bench.batcher._run_batch = lose_one
    with pytest.raises(InferenceFailedError):
        await bench.submit("a")
    await bench.stop()


async def test_a_lost_device_fails_the_batch_without_repeating_it() -> None:
    bench = Bench()
    bench.device.failure = EngineUnavailableError("gone")
    first = await bench.occupy()
    tasks = [bench.submit(name) for name in "abc"]
    await settle()
    bench.open()
    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert all(isinstance(result, EngineUnavailableError) for result in results)
    assert len(bench.device.batches) == 2
    await bench.stop()


async def test_a_cancelled_item_never_reaches_the_device() -> None:
    bench = Bench()
    await bench.occupy()
    gone, stays = bench.submit("gone"), bench.submit("stays")
    await settle()
    gone.cancel()
    bench.open()
    await stays
    assert "gone" not in bench.device.seen
    assert bench.counts.drops == ["client_gone"]
    await bench.stop()


async def test_an_expired_item_never_reaches_the_device() -> None:
    bench = Bench()
    await bench.occupy()
    late, patient = bench.submit("late", within=5.0), bench.submit("patient", within=50.0)
    await settle()
    bench.clock.now += 10.0
    bench.open()
    with pytest.raises(DeadlineExceededError):
        await late
    await patient
    assert "late" not in bench.device.seen
    assert bench.counts.drops == ["deadline"]
    await bench.stop()


async def test_cancelling_one_item_of_a_running_batch_leaves_the_others() -> None:
    bench = Bench()
    await bench.occupy()
    gone, stays = bench.submit("gone"), bench.submit("stays")
    await settle()
    bench.release()
    await settle()
    assert bench.device.batches[-1][1] == ["gone", "stays"]
    gone.cancel()
    bench.open()
    assert (await stays).result == "stays!"
    assert bench.counts.drops == []
    await bench.stop()


@pytest.mark.parametrize(
    ("limits", "accepted"), [({"max_queue_images": 2}, 2), ({"max_queue_pixels": 350}, 3)]
)
async def test_a_full_queue_refuses_at_once(limits: dict[str, float], accepted: int) -> None:
    bench = Bench(**limits)
    await bench.occupy()
    waiting = [bench.submit(str(number)) for number in range(accepted)]
    await settle()
    with pytest.raises(QueueFullError) as refusal:
        await bench.submit("too many")
    assert refusal.value.retry_after_s == 1, "nothing has been measured yet"
    bench.open()
    await asyncio.gather(*waiting)
    await bench.stop()


async def test_retry_after_is_the_time_the_queue_needs() -> None:
    bench = Bench(max_batch_images=1, max_queue_images=10)
    bench.device.seconds_per_batch = 2.0
    first = await bench.occupy()
    bench.release()
    await first
    await bench.occupy("second")
    waiting = [bench.submit(str(number)) for number in range(10)]
    await settle()
    with pytest.raises(QueueFullError) as refusal:
        await bench.submit("too many")
    assert refusal.value.retry_after_s == 22, "ten that wait and the one that runs, 2 s each"
    bench.open()
    await asyncio.gather(*waiting)
    await bench.stop()


async def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    bench = Bench(max_batch_images=1)
    bench.device.seconds_per_batch = 2.0
    first = await bench.occupy()
    bench.release()
    await first
    await bench.occupy("second")
    waiting = [bench.submit(str(number)) for number in range(3)]
    await settle()
    with pytest.raises(DeadlineUnreachableError) as refusal:
        await bench.submit("hurry", within=9.0)
    assert refusal.value.retry_after_s == 8
    patient = bench.submit("patient", within=11.0)
    await settle()
    bench.open()
    await asyncio.gather(patient, *waiting)
    await bench.stop()


async def test_an_idle_device_corrects_a_wrong_estimate() -> None:
    bench = Bench()
    bench.open()
    bench.device.seconds_per_batch = 100.0
    await bench.submit("slow once")
    bench.device.seconds_per_batch = 0.0
    assert (await bench.submit("hurry", within=1.0)).result == "hurry!"
    await bench.stop()


async def test_the_batcher_waits_for_company_only_as_long_as_configured() -> None:
    bench = Bench(max_delay_s=0.05)
    bench.batcher._clock = asyncio.get_running_loop().time
    bench.device.is_open = True
    start = asyncio.get_running_loop().time()
    tasks = [
        asyncio.create_task(bench.batcher.submit(name, key=SMALL, deadline=start + 60))
        for name in "ab"
    ]
    await asyncio.gather(*tasks)
    elapsed = asyncio.get_running_loop().time() - start
    assert 0.04 < elapsed < 1.0
    assert bench.device.batches == [(SMALL, ["a", "b"])]
    full = [
        asyncio.create_task(bench.batcher.submit(name, key=SMALL, deadline=start + 60))
        for name in "cdef"
    ]
    start = asyncio.get_running_loop().time()
    await asyncio.gather(*full)
    assert asyncio.get_running_loop().time() - start < 0.04, "a full batch does not wait"
    await bench.stop()


async def test_shutdown_resolves_every_future_also_mid_batch() -> None:
    bench = Bench()
    running = await bench.occupy()
    waiting = [bench.submit(name, key) for name in "ab" for key in (SMALL, LARGE)]
    await settle()
    await bench.stop()
    results = await asyncio.wait_for(
        asyncio.gather(running, *waiting, return_exceptions=True), timeout=5
    )
    assert len(results) == 5
    assert all(isinstance(result, ShuttingDownError) for result in results)
    with pytest.raises(ShuttingDownError):
        await bench.submit("later")


async def test_shutdown_between_the_halves_of_a_failed_batch_resolves_every_future() -> None:
    bench = Bench(max_batch_images=8)
    await bench.occupy()
    tasks = [bench.submit(name) for name in (POISON, "b", "c", "d")]
    await settle()
    bench.release(2)
    await settle()
    assert bench.device.batches[-1][1] == [POISON, "b"], "the first half is on the device"
    await bench.stop()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=5)
    assert all(isinstance(result, ShuttingDownError) for result in results)


async def test_a_closed_batcher_finishes_what_waits() -> None:
    bench = Bench()
    await bench.occupy()
    waiting = bench.submit("waiting")
    await settle()
    bench.batcher.close("closing")
    bench.open()
    assert (await waiting).result == "waiting!"
    with pytest.raises(ShuttingDownError, match="closing"):
        await bench.submit("new")
    await bench.stop()


async def test_waiting_reports_every_bucket() -> None:
    bench = Bench()
    await bench.occupy()
    tasks = [bench.submit("a"), bench.submit("b"), bench.submit("c", LARGE)]
    await settle()
    bench.clock.now += 3.0
    assert sorted(bench.batcher.waiting(), key=lambda row: row[0].model) == [
        (SMALL, 2, 3.0),
        (LARGE, 1, 3.0),
    ]
    bench.open()
    await asyncio.gather(*tasks)
    await bench.stop()
