"""Filled-up batches against batches of a worthwhile size, on a device that only takes its time.

python -m benchmarks.batch_sizing --out benchmarks/results/batch-sizing-cpu.json

The real batcher in front of a device that sleeps as long as a GPU was measured to take for each
batch size: times in milliseconds from benchmarks/results/gpu-library-fc2-h100.json (batch 1 and 4
of detection, all of classification) and loadtests/results/slow-http-h100-detect-segment.json (16,
without HTTP), those between them on straight lines. Closed loops: what a request costs outside of
the device is a random time, different each time, or all clients would march in step. `filled up`
takes all that wait, which is how a batcher behaves that knows of no times.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.report import Row, cpu_name, write_report
from service.engine.batch_types import BatchKey, BatchLimits
from service.engine.batcher import Batcher

SIZES: Final = (1, 2, 4, 8, 16)
_MEASURED_MS: Final[Mapping[str, Mapping[int, float]]] = {
    "detect-tiny-800x1344": {1: 6.32, 4: 16.48, 16: 48.13},
    "classify-tiny-224": {1: 1.00, 2: 1.04, 4: 1.13, 8: 1.37, 16: 1.85},
}
# mean time outside of the device, exponentially distributed
_OUTSIDE_MS: Final = {"detect-tiny-800x1344": 60.0, "classify-tiny-224": 6.0}
CLIENTS: Final = (4, 8, 16, 24, 32, 48)


def batch_ms(case: str) -> dict[int, float]:
    """Milliseconds of each size."""
    known = _MEASURED_MS[case]
    return {size: float(np.interp(size, [*known], [*known.values()])) for size in SIZES}


class SleepingDevice:
    """Takes the time of the next larger size; one batch at a time.

    Attributes:
        images: computed.
        rows: of the sizes that they were filled up to.
    """

    def __init__(self, milliseconds: Mapping[int, float]) -> None:
        self._milliseconds = milliseconds
        self._turn = asyncio.Lock()
        self.images = self.rows = 0

    async def stage(self, key: BatchKey, items: Sequence[int]) -> Sequence[int]:
        return items

    async def compute(
        self, key: BatchKey, staged: Any, is_wanted: Callable[[], bool]
    ) -> Sequence[int]:
        async with self._turn:
            size = min(size for size in SIZES if size >= len(staged))
            await asyncio.sleep(self._milliseconds[size] / 1e3)
        self.images += len(staged)
        self.rows += size
        return [0] * len(staged)

    def batch_done(self, key: BatchKey, images: int) -> None:
        """Counted above."""

    def dropped(self, reason: str) -> None:
        raise AssertionError(reason)


class _Forgetful(Batcher[int, int]):
    """Learns no times, and so takes all that wait."""

    def learn(self, key: BatchKey, images: int, seconds: float) -> None:
        pass


async def closed_loop(case: str, clients: int, seconds: float, *, knows_times: bool) -> list[Row]:
    """Images per second, mean latency, and the part of the rows that were images."""
    milliseconds = batch_ms(case)
    device = SleepingDevice(milliseconds)
    limits = BatchLimits(
        max_batch_images=max(SIZES),
        max_batch_pixels=1 << 40,
        max_delay_s=0.0,
        max_age_s=0.5,
        max_queue_images=1 << 20,
        max_queue_pixels=1 << 40,
        batch_sizes=SIZES,
    )
    kind = Batcher if knows_times else _Forgetful
    batcher: Batcher[int, int] = kind(device, limits, device)
    key = BatchKey(case, (10, 10))
    for size in SIZES:  # as the warm-up does
        batcher.learn(key, size, milliseconds[size] / 1e3)
    runner = asyncio.create_task(batcher.run())
    started = time.monotonic()

    async def client(number: int) -> None:
        outside = random.Random(number)  # noqa: S311 - no secret
        while (now := time.monotonic()) < started + seconds:
            await batcher.submit(0, key=key, deadline=now + 60)
            waits.append(time.monotonic() - now)
            await asyncio.sleep(outside.expovariate(1e3 / _OUTSIDE_MS[case]))

    waits: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(client(number))
    rate = device.images / (time.monotonic() - started)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    name = f"{case}-c{clients}-{'worthwhile' if knows_times else 'filled-up'}"
    return [
        Row(name, "throughput", "images/s", round(rate, 1)),
        Row(name, "wait mean", "ms", round(1e3 * sum(waits) / len(waits), 3)),
        Row(name, "rows with an image", "share", round(device.images / device.rows, 3)),
    ]


async def measure(seconds: float) -> list[Row]:
    """Both ways, one after the other, for every number of clients."""
    rows: list[Row] = []
    for case in _MEASURED_MS:
        for clients in CLIENTS:
            pair = [
                await closed_loop(case, clients, seconds, knows_times=knows)
                for knows in (False, True)
            ]
            name, rows = f"{case}-c{clients}", [*rows, *pair[0], *pair[1]]
            for before, now in zip(*pair, strict=True):
                ratio = round(now.value / before.value, 3)
                rows.append(Row(name, f"{now.metric}, worthwhile / filled up", "ratio", ratio))
            print(name, *(f"{row.metric} {row.value:g}" for row in rows[-3:]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each loop")
    args = parser.parse_args()
    rows = asyncio.run(measure(args.seconds))
    if args.out:
        write_report(args.out, "batch-sizing", rows, cpu_name())


if __name__ == "__main__":
    main()
