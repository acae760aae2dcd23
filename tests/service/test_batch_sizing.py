"""Batches that are filled up: how many images to compute together."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batch_sizing import BatchSizing
from service.engine.batch_types import BatchKey
from tests.service.batcher_bench import SMALL, Bench, settle

SIZES = (1, 2, 4, 8, 16)
KEY = BatchKey("model", (10, 10))


def learned(fixed: float, each: float, sizes: tuple[int, ...] = SIZES) -> BatchSizing:
    sizing = BatchSizing()
    for size in sizes:
        sizing.observe(KEY, size, fixed + each * size)
    return sizing


def test_where_every_image_costs_the_same_nothing_is_filled_up() -> None:
    sizing = learned(fixed=0.0, each=1.0)
    assert [sizing.best(KEY, n, SIZES) for n in (1, 2, 3, 5, 9, 15, 16)] == [1, 2, 2, 4, 8, 8, 16]


def test_where_only_batches_cost_all_go_at_once() -> None:
    sizing = learned(fixed=1.0, each=0.0)
    assert [sizing.best(KEY, n, SIZES) for n in range(1, 17)] == list(range(1, 17))


def test_in_between_a_batch_that_is_almost_full_is_filled_up() -> None:
    # 8 take 12, 16 take 20: eleven at once are as fast as 8.25 in 15
    sizing = learned(fixed=4.0, each=1.0)
    assert [sizing.best(KEY, n, SIZES) for n in range(9, 16)] == [8, 8, 8, 8, 8, 14, 15]


def test_without_measurements_all_go_at_once() -> None:
    assert BatchSizing().best(KEY, 9, SIZES) == 9
    assert learned(0.0, 1.0, sizes=(8,)).best(KEY, 9, SIZES) == 9
    assert learned(0.0, 1.0).best(BatchKey("other", (10, 10)), 9, SIZES) == 9


def test_models_that_compute_any_size_as_it_is_get_all() -> None:
    assert learned(0.0, 1.0).best(KEY, 9, ()) == 9


def test_more_than_the_largest_size_is_left_alone() -> None:
    assert learned(0.0, 1.0).best(KEY, 20, SIZES) == 20


def test_one_shape_tells_of_all() -> None:
    sizing = learned(fixed=0.0, each=1.0)
    assert sizing.best(BatchKey("model", (300, 20)), 9, SIZES) == 8


def test_a_batch_that_was_captured_on_the_way_hardly_counts() -> None:
    sizing = learned(fixed=4.0, each=1.0)
    sizing.observe(KEY, 16, 2000.0)
    assert sizing.best(KEY, 15, SIZES) == 15


def test_a_change_is_learned() -> None:
    sizing = learned(fixed=4.0, each=1.0)
    for _ in range(60):
        sizing.observe(KEY, 16, 40.0)
    assert sizing.best(KEY, 15, SIZES) == 8


@given(times=st.lists(st.floats(1e-4, 10.0), min_size=5, max_size=5), waiting=st.integers(1, 16))
def test_no_other_choice_does_more_images_a_second(times: list[float], waiting: int) -> None:
    sizing = BatchSizing()
    took = dict(zip(SIZES, times, strict=True))
    for size, seconds in took.items():
        sizing.observe(KEY, size, seconds)
    best = sizing.best(KEY, waiting, SIZES)
    full = min(size for size in SIZES if size >= best)
    smaller = max(size for size in SIZES if size <= waiting)
    larger = min(size for size in SIZES if size >= waiting)
    rates = [smaller / took[smaller], waiting / took[larger]]
    assert best / took[full] == pytest.approx(max(rates))


@pytest.mark.anyio
async def test_the_batcher_leaves_what_would_only_fill_up() -> None:
    bench = Bench(batch_sizes=(1, 2, 4, 8), max_batch_images=8)
    for size in (1, 2, 4, 8):
        bench.batcher.learn(SMALL, size, float(size))
    tasks = [await bench.occupy("running")]
    tasks += [bench.submit(str(number)) for number in range(5)]
    bench.open()
    await asyncio.gather(*tasks)
    sizes = [len(items) for _, items in bench.device.batches]
    assert sum(sizes) == 6
    assert set(sizes) <= {1, 2, 4}, "none was filled up"
    await bench.stop()


@pytest.mark.anyio
async def test_the_batcher_learns_from_what_it_does() -> None:
    bench = Bench(batch_sizes=(4, 8), max_batch_images=8)
    bench.device.seconds_per_batch = 1.0
    tasks = [await bench.occupy("computed as four")]
    tasks += [bench.submit(f"eight {number}") for number in range(8)]
    await settle()
    bench.release()
    await tasks[0]
    bench.device.seconds_per_batch = 8.0
    bench.release()
    await asyncio.gather(*tasks)
    bench.device.seconds_per_batch = 1.0
    tasks = [await bench.occupy("running"), *(bench.submit(str(number)) for number in range(5))]
    bench.open()
    await asyncio.gather(*tasks)
    assert [len(items) for _, items in bench.device.batches] == [1, 8, 1, 4, 1]
    await bench.stop()
