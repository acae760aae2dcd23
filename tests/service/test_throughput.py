"""What is predicted from the batches that were done."""

import random

import pytest

from service.engine.throughput import Throughput


def learned(*batches: tuple[int, float]) -> Throughput:
    throughput = Throughput()
    for pixels, seconds in batches:
        throughput.observe("m", pixels, seconds)
    return throughput


def test_nothing_is_known_at_first() -> None:
    assert Throughput().seconds([("m", 10)]) is None


def test_one_size_is_taken_as_proportional() -> None:
    assert learned((100, 1.0), (100, 1.0)).seconds([("m", 50)]) == pytest.approx(0.5)


def test_a_fixed_cost_is_found_out() -> None:
    """A GPU: one picture takes hardly less than sixteen."""
    throughput = learned(*[(100, 1.01), (1600, 1.16)] * 5)
    assert throughput.seconds([("m", 100)]) == pytest.approx(1.01, rel=0.01)
    assert throughput.seconds([("m", 800)]) == pytest.approx(1.08, rel=0.01)
    # two batches of the largest size
    assert throughput.seconds([("m", 3200)]) == pytest.approx(2.32, rel=0.01)


def test_small_batches_for_a_long_time_do_not_make_a_burst_look_hopeless() -> None:
    throughput = learned((1600, 1.16), *[(100, 1.01)] * 5)
    predicted = throughput.seconds([("m", 1600)])
    assert predicted is not None
    assert predicted < 2.0, "16 pictures, not 16 batches"


def test_a_device_that_slows_down_is_noticed() -> None:
    throughput = learned(*[(100, 1.0)] * 50, *[(100, 3.0)] * 30)
    assert throughput.seconds([("m", 100)]) == pytest.approx(3.0, rel=0.05)


def test_nonsense_never_gives_negative_times() -> None:
    choose = random.Random(0)  # noqa: S311 - a test
    throughput = Throughput()
    for _ in range(2000):
        throughput.observe("m", choose.randrange(1, 10**7), choose.random())
        for pixels in (1, 10**4, 10**8):
            predicted = throughput.seconds([("m", pixels)])
            assert predicted is not None
            assert predicted > 0


def test_a_model_without_a_measurement_counts_as_the_slowest() -> None:
    throughput = learned((100, 1.0))
    throughput.observe("slow", 100, 5.0)
    assert throughput.seconds([("new", 100)]) == pytest.approx(5.0)
    assert throughput.seconds([("m", 100), ("slow", 100)]) == pytest.approx(6.0)
    assert throughput.seconds([]) == 0
