"""What never reaches the device: cancelled, expired and refused items; the end."""

import asyncio

import pytest

from service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    QueueFullError,
    ShuttingDownError,
)
from tests.service.batcher_bench import LARGE, POISON, SMALL, Bench, settle

pytestmark = pytest.mark.anyio


async def test_a_cancelled_item_never_reaches_the_device() -> None:
    bench = Bench()
    await bench.fill()
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
    await bench.fill()
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
    await bench.fill()
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
    prepared = bench.submit("prepared")
    await settle()
    waiting = [bench.submit(str(number)) for number in range(10)]
    await settle()
    with pytest.raises(QueueFullError) as refusal:
        await bench.submit("too many")
    assert refusal.value.retry_after_s == 24, "ten that wait, one prepared and one that runs"
    bench.open()
    await asyncio.gather(prepared, *waiting)
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
    patient = bench.submit("patient", within=13.0)
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
    assert asyncio.get_running_loop().time() - start > 0.04
    assert bench.device.batches == [(SMALL, ["a", "b"])]
    await bench.stop()


async def test_a_full_batch_does_not_wait_for_company() -> None:
    bench = Bench(max_delay_s=1000.0)
    bench.device.is_open = True
    full = [bench.submit(name) for name in "cdef"]
    await asyncio.wait_for(asyncio.gather(*full), timeout=30)
    assert bench.device.batches == [(SMALL, ["c", "d", "e", "f"])]
    await bench.stop()


async def test_shutdown_resolves_every_future_also_mid_batch() -> None:
    bench = Bench()
    running, prepared = await bench.fill()
    waiting = [bench.submit(name, key) for name in "ab" for key in (SMALL, LARGE)]
    await settle()
    await bench.stop()
    results = await asyncio.wait_for(
        asyncio.gather(running, prepared, *waiting, return_exceptions=True), timeout=5
    )
    assert len(results) == 6
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
    await bench.fill()
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


async def test_a_batch_that_is_cut_short_gets_a_preferred_size() -> None:
    bench = Bench(max_batch_images=7, batch_sizes=(1, 4, 8))
    await bench.occupy()
    tasks = [bench.submit(str(number)) for number in range(7)]
    await settle()
    bench.open()
    await asyncio.gather(*tasks)
    assert [len(items) for _, items in bench.device.batches] == [1, 4, 3]
    await bench.stop()


async def test_preferred_sizes_that_are_all_too_large_do_not_count() -> None:
    bench = Bench(max_batch_images=3, batch_sizes=(4, 8))
    await bench.occupy()
    tasks = [bench.submit(str(number)) for number in range(5)]
    await settle()
    bench.open()
    await asyncio.gather(*tasks)
    assert [len(items) for _, items in bench.device.batches] == [1, 3, 2]
    await bench.stop()
