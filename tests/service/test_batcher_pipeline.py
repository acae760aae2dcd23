"""One batch is computed, one is prepared; priorities; device memory."""

import asyncio
import logging

import pytest

from service.engine.base import Priority
from service.engine.batch_types import BatchLimits, Served
from service.engine.device import DeviceOutOfMemoryError
from service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    EngineUnavailableError,
    InferenceFailedError,
    ShuttingDownError,
)
from tests.service.batcher_bench import LARGE, POISON, SMALL, Bench, settle

pytestmark = pytest.mark.anyio


async def measured(bench: Bench, *, seconds: float) -> None:
    """Let the batcher learn how long a batch of one takes."""
    bench.device.seconds_per_batch = seconds
    first = await bench.occupy("measured")
    bench.release()
    await first


async def test_the_next_batch_is_prepared_while_one_is_computed() -> None:
    bench = Bench()
    await bench.fill()
    assert bench.device.batches == [(SMALL, ["first"])]
    waiting = bench.submit("waiting")
    await settle()
    assert len(bench.device.staged) == 2, "one computes, one is prepared, no more"
    bench.release()
    await settle()
    assert bench.device.batches[-1][1] == ["prepared"]
    assert bench.device.staged[-1][1] == ["waiting"]
    bench.open()
    await waiting
    await bench.stop()
    assert not bench.device.on_device


async def test_no_batch_is_taken_while_one_is_being_prepared() -> None:
    bench = Bench()
    await bench.occupy()
    bench.device.stage_gate = asyncio.Semaphore(0)
    tasks = [bench.submit("slow to prepare")]
    await settle()
    tasks.append(bench.submit("later"))
    await settle()
    bench.release()
    await settle()
    assert bench.device.staged[-1][1] == ["slow to prepare"]
    for _ in range(2):
        bench.device.stage_gate.release()
    bench.open()
    await asyncio.gather(*tasks)
    assert bench.device.staged[-1][1] == ["later"]
    await bench.stop()


async def test_a_batch_that_is_not_full_waits_for_company_while_there_is_time() -> None:
    bench = Bench(max_batch_images=3)
    await measured(bench, seconds=50.0)
    tasks = [await bench.occupy("second")]
    tasks += [bench.submit("a")]
    await settle()
    assert len(bench.device.staged) == 2, "the device has 50 s to go"
    tasks += [bench.submit("b")]
    await settle()
    assert len(bench.device.staged) == 2
    tasks += [bench.submit("c")]
    await settle()
    assert bench.device.staged[-1][1] == ["a", "b", "c"], "full: nothing more to wait for"
    bench.open()
    await asyncio.gather(*tasks)
    await bench.stop()


async def test_what_waits_for_company_starts_with_the_free_device() -> None:
    bench = Bench()
    await measured(bench, seconds=50.0)
    second = await bench.occupy("second")
    alone = bench.submit("alone")
    await settle()
    bench.device.is_open = True
    bench.release()
    await second
    assert (await alone).batch_size == 1
    await bench.stop()


async def test_a_batch_is_prepared_in_time() -> None:
    bench = Bench()
    bench.batcher._clock = bench.batcher._pipeline._clock = asyncio.get_running_loop().time
    bench.clock.now = asyncio.get_running_loop().time()

    async def slowly(seconds: float) -> None:
        bench.device.is_open = False
        task = bench.submit("x")
        await asyncio.sleep(seconds)
        bench.release()
        await task

    await slowly(0.2)
    bench.clock.now += 1.0
    running = await bench.occupy("running")
    start = asyncio.get_running_loop().time()
    waiting = bench.submit("waiting")
    await settle()
    assert bench.batcher._hold_s() < 0.3, "the device is free then"
    while len(bench.device.staged) < 3:  # noqa: ASYNC110 - what is measured is when
        await asyncio.sleep(0.005)
    # a slow machine may wake late, but nobody early
    assert 0.1 < asyncio.get_running_loop().time() - start < 10
    assert not running.done()
    bench.open()
    await asyncio.gather(running, waiting)
    await bench.stop()


async def test_the_rate_is_that_of_batch_after_batch() -> None:
    bench = Bench(max_batch_images=1)
    bench.device.seconds_per_stage = 3.0
    bench.device.seconds_per_batch = 10.0
    first = await bench.occupy()
    second = bench.submit("second")
    await settle()
    bench.open()
    served = [await first, await second]
    # the clock stands still but for the device: 3 + 3 + 10, then 10 more
    assert isinstance(served[0], Served)
    assert (served[0].queue_s, served[0].infer_s) == (0.0, 16.0)
    assert isinstance(served[1], Served)
    assert (served[1].queue_s, served[1].infer_s) == (13.0, 10.0)
    await bench.stop()


@pytest.mark.parametrize("names", ["a", "ab"])
@pytest.mark.parametrize("is_late", [True, False], ids=["expired", "abandoned"])
async def test_a_prepared_batch_that_nobody_wants_is_not_computed(
    is_late: bool, names: str
) -> None:
    bench = Bench()
    first = await bench.occupy()
    gone = [bench.submit(name, within=5.0) for name in names]
    await settle()
    assert bench.device.staged[-1][1] == list(names)
    if is_late:
        bench.clock.now += 10.0
    else:
        for task in gone:
            task.cancel()
    bench.open()
    results = await asyncio.gather(first, *gone, return_exceptions=True)
    expected = DeadlineExceededError if is_late else asyncio.CancelledError
    assert all(isinstance(result, expected) for result in results[1:])
    assert bench.device.seen == ["first"]
    assert bench.counts.drops == ["deadline" if is_late else "client_gone"] * len(names)
    assert (await bench.submit("next")).result == "next!"
    await bench.stop()
    assert not bench.device.on_device


async def test_halves_are_staged_again_beside_a_prepared_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # a record of the failure would hold the frames that hold the batch
    caplog.set_level(logging.CRITICAL, logger="service.engine.pipeline")
    bench = Bench()
    first = await bench.occupy()
    bad = [bench.submit(name) for name in ("a", POISON)]
    await settle()
    bench.release()
    await first
    await settle()
    prepared = bench.submit("prepared")
    await settle()
    assert bench.device.staged[-1][1] == ["prepared"]
    bench.open()
    results = await asyncio.gather(*bad, prepared, return_exceptions=True)
    assert isinstance(results[1], InferenceFailedError)
    assert [own.result for own in results if isinstance(own, Served)] == ["a!", "prepared!"]
    assert sorted(items for _, items in bench.device.staged) == [
        ["a"],
        ["a", POISON],
        ["first"],
        [POISON],
        ["prepared"],
    ]
    await bench.stop()
    assert not bench.device.on_device


@pytest.mark.parametrize(
    ("failure", "error", "times"),
    [(RuntimeError("no"), InferenceFailedError, 7), (EngineUnavailableError("no"), None, 1)],
)
async def test_a_failure_of_staging_is_one_of_the_batch(
    failure: Exception, error: type[Exception] | None, times: int
) -> None:
    bench = Bench()
    bench.device.stage_failure = failure
    tasks = [bench.submit(name) for name in "abcd"]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, error or type(failure)) for result in results)
    assert len(bench.device.staged) == times
    bench.device.stage_failure = None
    bench.open()
    assert (await bench.submit("next")).result == "next!"
    await bench.stop()


async def test_shutdown_while_a_batch_is_prepared_resolves_every_future() -> None:
    bench = Bench()
    first = await bench.occupy()
    bench.device.stage_gate = asyncio.Semaphore(0)
    tasks = [first, bench.submit("a"), bench.submit("b", LARGE)]
    await settle()
    await bench.stop()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=5)
    assert all(isinstance(result, ShuttingDownError) for result in results)
    assert not bench.batcher.is_busy
    assert not bench.device.on_device


async def test_an_observer_that_fails_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    monkeypatch.delattr("tests.service.batcher_bench.Counts.batch_done")
    bench.open()
    tasks = [bench.submit("a"), bench.submit("b", LARGE)]
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=5)
    assert all(isinstance(result, ShuttingDownError) for result in results)
    with pytest.raises(ExceptionGroup):
        await bench.runner


class TestPriorities:
    async def test_high_ones_go_first_within_a_bucket_and_between_buckets(self) -> None:
        bench = Bench(max_batch_images=2)
        await bench.fill()
        tasks = [bench.submit(name) for name in "abcd"]
        tasks += [bench.submit(name, LARGE) for name in "xy"]
        tasks.append(bench.submit("first of its kind", LARGE, priority=Priority.HIGH))
        tasks.append(bench.submit("urgent", priority=Priority.HIGH))
        await settle()
        bench.open()
        await asyncio.gather(*tasks)
        assert [items for _, items in bench.device.batches[2:]] == [
            ["urgent", "a"],
            ["first of its kind", "x"],
            ["b", "c"],
            ["y"],
            ["d"],
        ]
        await bench.stop()

    async def test_what_is_old_goes_before_everything(self) -> None:
        bench = Bench(max_batch_images=1, max_age_s=5.0)
        await bench.fill()
        old = bench.submit("old", LARGE)
        await settle()
        bench.clock.now += 6.0
        tasks = [old, *[bench.submit(name, priority=Priority.HIGH) for name in "ab"]]
        await settle()
        bench.open()
        await asyncio.gather(*tasks)
        assert bench.device.seen[2:] == ["old", "a", "b"]
        await bench.stop()

    async def test_the_wait_of_a_high_one_counts_what_goes_before_it(self) -> None:
        bench = Bench(max_batch_images=1, max_age_s=30.0)
        await measured(bench, seconds=2.0)
        tasks = [await bench.occupy("running")]
        tasks += [bench.submit("prepared")]
        await settle()
        tasks += [bench.submit(str(number)) for number in range(10)]
        tasks += [bench.submit("urgent", priority=Priority.HIGH)]
        await settle()
        assert bench.batcher.predicted_wait_s() == 26.0
        assert bench.batcher.predicted_wait_s(Priority.HIGH) == 6.0
        with pytest.raises(DeadlineUnreachableError):
            await bench.submit("late", within=20.0)
        tasks += [bench.submit("in time", within=20.0, priority=Priority.HIGH)]
        await settle()
        assert not tasks[-1].done()
        bench.clock.now += 31.0
        # all of the queue has aged and goes before a new one, whatever its priority
        assert bench.batcher.predicted_wait_s(Priority.HIGH) == 26.0
        tasks[-1].cancel()
        bench.open()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bench.stop()


class TestMemory:
    async def test_a_batch_without_memory_is_repeated_and_the_next_ones_are_smaller(self) -> None:
        bench = Bench(max_batch_images=8)
        bench.device.memory_images = 3
        await bench.occupy()
        tasks = [bench.submit(f"{number}") for number in range(20)]
        await settle()
        bench.open()
        assert [(await task).result for task in tasks] == [f"{number}!" for number in range(20)]
        assert bench.batcher.memory_caps() == {SMALL: 2}
        sizes = [len(items) for _, items in bench.device.batches]
        too_large = [size for size in sizes if size > 3]
        # one that ran, one that was prepared, and what the cap in between allows
        assert len(too_large) <= 5, sizes
        after = len(bench.device.batches)
        await asyncio.gather(*(bench.submit(str(number)) for number in range(9)))
        assert max(len(items) for _, items in bench.device.batches[after:]) == 2
        await bench.stop()

    async def test_what_waits_already_gets_smaller_batches_too(self) -> None:
        bench = Bench(max_batch_images=4)
        bench.device.memory_images = 3
        tasks = [bench.submit(str(number)) for number in range(4)]
        await settle()
        tasks += [bench.submit(str(number)) for number in range(4, 8)]
        await settle()
        tasks += [bench.submit(str(number)) for number in range(8, 16)]
        await settle()
        assert [len(items) for _, items in bench.device.staged] == [4, 4]
        bench.open()
        await asyncio.gather(*tasks)
        sizes = [len(items) for _, items in bench.device.batches]
        assert sizes.count(4) == 2, "the one that ran and the one that was prepared"
        assert max(size for size in sizes if size != 4) == 2
        await bench.stop()

    async def test_one_model_has_no_part_in_the_other_ones_memory(self) -> None:
        bench = Bench()
        bench.open()
        bench.device.memory_images = 2
        await asyncio.gather(*(bench.submit(name) for name in "abcd"))
        assert bench.batcher.batch_cap(SMALL) == 2
        assert bench.batcher.batch_cap(LARGE) == 4
        await bench.stop()

    async def test_a_single_image_without_memory_fails(self) -> None:
        bench = Bench()
        bench.open()
        bench.device.memory_images = 0
        results = await asyncio.gather(
            *(bench.submit(name) for name in "abc"), return_exceptions=True
        )
        assert all(isinstance(result, InferenceFailedError) for result in results)
        assert bench.batcher.memory_caps() == {SMALL: 1}
        await bench.stop()

    async def test_staging_may_lack_memory_too(self) -> None:
        bench = Bench()
        bench.device.stage_failure = DeviceOutOfMemoryError("none")
        bench.open()
        tasks = [bench.submit(name) for name in "abcd"]
        await asyncio.gather(*tasks, return_exceptions=True)
        assert bench.batcher.memory_caps() == {SMALL: 1}
        await bench.stop()


@pytest.mark.parametrize(
    ("sizes", "images", "expected"),
    [
        ((), 9, 4),
        ((), 2, 1),
        ((1, 2, 4, 8), 8, 4),
        ((1, 2, 4, 8), 5, 4),
        ((1, 2, 4, 8), 3, 2),
        ((1, 64), 40, 1),
        ((4, 8), 3, 2),
        ((4, 8), 2, 1),
    ],
)
def test_what_to_try_when_memory_lacks(sizes: tuple[int, ...], images: int, expected: int) -> None:
    limits = BatchLimits(
        max_batch_images=64,
        max_batch_pixels=10**9,
        max_delay_s=0.0,
        max_age_s=1.0,
        max_queue_images=100,
        max_queue_pixels=10**9,
        batch_sizes=sizes,
    )
    assert limits.half(images) == expected < images
