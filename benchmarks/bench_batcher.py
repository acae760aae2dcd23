"""What the batcher itself costs: CPU time per image, with a device that takes none.

python -m benchmarks.bench_batcher
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.report import ROOT, Row, write_report
from service.engine.base import Priority
from service.engine.batch_types import BatchKey, BatchLimits
from service.engine.batcher import Batcher

LIMITS = BatchLimits(
    max_batch_images=64,
    max_batch_pixels=1 << 40,
    max_delay_s=0.0,
    max_age_s=0.5,
    max_queue_images=1 << 20,
    max_queue_pixels=1 << 40,
    batch_sizes=(1, 2, 4, 8, 16, 32, 64),
)


class NoDevice:
    """Hands back what it is given."""

    async def stage(self, key: BatchKey, items: Sequence[int]) -> Sequence[int]:
        return items

    async def compute(
        self, key: BatchKey, staged: Any, is_wanted: Callable[[], bool]
    ) -> Sequence[int]:
        await asyncio.sleep(0)
        return [0] * len(staged)

    def batch_done(self, key: BatchKey, images: int) -> None:
        """Nothing is counted."""

    def dropped(self, reason: str) -> None:
        raise AssertionError(reason)


async def measure(clients: int, shapes: int, images: int) -> float:
    """Microseconds of CPU per image, futures and tasks included, in a closed loop."""
    device = NoDevice()
    batcher: Batcher[int, int] = Batcher(device, LIMITS, device)
    runner = asyncio.create_task(batcher.run())
    keys = [BatchKey("model", (224, 224 + 32 * number)) for number in range(shapes)]

    async def client(number: int, count: int) -> None:
        priority = Priority.NORMAL if number % 4 else Priority.HIGH
        for step in range(count):
            key = keys[(number + step) % shapes]
            await batcher.submit(0, key=key, deadline=time.monotonic() + 60, priority=priority)

    async def all_clients(total: int) -> None:
        each = max(1, total // clients)
        await asyncio.gather(*(client(number, each) for number in range(clients)))

    await all_clients(images // 4)
    start = time.process_time()
    await all_clients(images)
    seconds = time.process_time() - start
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    return 1e6 * seconds / (max(1, images // clients) * clients)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/batcher.json")
    args = parser.parse_args()
    rows = []
    for clients, shapes in ((1, 1), (16, 1), (256, 1), (4096, 1), (256, 30), (4096, 30)):
        case = f"{clients}-clients-{shapes}-shapes"
        cost = uvloop.run(measure(clients, shapes, args.images))
        rows.append(Row(case, "CPU time per image", "us", cost))
        print(f"{case:24} {cost:8.1f} us per image")
    write_report(args.out, "batcher", rows)


if __name__ == "__main__":
    main()
