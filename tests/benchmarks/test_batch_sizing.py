"""The simulated device of the batch sizes."""

import asyncio

import pytest

from benchmarks.batch_sizing import SIZES, SleepingDevice, batch_ms, closed_loop
from service.engine.batch_types import BatchKey


def test_times_between_measured_ones_lie_on_lines() -> None:
    times = batch_ms("detect-tiny-800x1344")
    assert times[2] == pytest.approx(6.32 + (16.48 - 6.32) / 3)
    assert times.keys() == set(SIZES)


def test_a_batch_takes_the_time_of_the_next_size() -> None:
    async def compute() -> SleepingDevice:
        device = SleepingDevice(dict.fromkeys(SIZES, 0.0))
        await device.compute(BatchKey("x", (1, 1)), [0] * 9, lambda: True)
        return device

    device = asyncio.run(compute())
    assert (device.images, device.rows) == (9, 16)


@pytest.mark.parametrize("knows_times", [False, True])
def test_a_loop_is_described(knows_times: bool) -> None:
    rows = asyncio.run(closed_loop("classify-tiny-224", 3, 0.2, knows_times=knows_times))
    figures = {row.metric: row.value for row in rows}
    assert figures["throughput"] > 0
    assert figures["wait mean"] >= 1.0, "no batch takes less"
    assert 0 < figures["rows with an image"] <= 1
