"""What becomes a batch, and what a failing batch does to its items."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from service.engine.batch_types import BatchKey, Served
from service.errors import (
    EngineUnavailableError,
    InferenceFailedError,
)
from tests.service.batcher_bench import LARGE, POISON, SMALL, Bench, settle

pytestmark = pytest.mark.anyio


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
    await bench.fill()
    others = [bench.submit(f"early{number}") for number in range(4)]
    rare = bench.submit("rare", LARGE)
    for round_number in range(10):
        others += [bench.submit(f"{name}{round_number}") for name in "ab"]
        await settle()
        bench.clock.now += 1.0
        bench.release()
        await settle()
    # the sixth round takes it, behind the two that fill the pipeline and one batch each before
    assert bench.device.seen.index("rare") == 12
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

    async def lose_one(
        key: BatchKey, staged: Sequence[str], is_wanted: Callable[[], bool]
    ) -> list[str]:
        return list(staged)[1:]

    bench.device.compute = lose_one  # type: ignore[method-assign]
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
