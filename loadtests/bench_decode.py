"""How many JPEG files the processors decode: one process, then one on each core.

python -m loadtests.bench_decode --out loadtests/results/decode-h100.json

The decoder of the front ends, with the pictures of the load tests, into memory that is used again,
as theirs is. Processes, not threads: between two pictures a thread needs the interpreter.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.report import GrowingReport, Row
from loadtests.generator.payloads import jpeg_pictures
from loadtests.workloads import PICTURES
from model.images import DecodeLimits, decode_rgb, jpeg_size
from service.cores import usable_cores

_DIFFERENT: Final = 16
_LATEST_S: Final = 120.0


def decode_for(pictures: Sequence[bytes], pixels: int, seconds: float, start: Barrier) -> float:
    """Pictures a second of this process, from when all have started."""
    memory, limits, done = np.empty(3 * pixels, np.uint8), DecodeLimits(), 0
    start.wait(_LATEST_S)
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        decode_rgb(pictures[done % len(pictures)], limits=limits, out=memory)
        done += 1
    return done / (time.monotonic() - began)


def images_per_s(pictures: Sequence[bytes], pixels: int, seconds: float, processes: int) -> float:
    """Of all processes together."""
    # not forked: this program's signal handlers and threads are not for them
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(processes) as pool:
        start = manager.Barrier(processes)
        work = [(pictures, pixels, seconds, start)] * processes
        return sum(pool.starmap(decode_for, work, chunksize=1))


def decoding_rows(label: str, pictures: Sequence[bytes], seconds: float) -> list[Row]:
    """Of one process, and of one on each core; all pictures have the size of the first."""
    size = jpeg_size(pictures[0])
    if size is None:
        raise ValueError("the pictures are no JPEG files")
    return [
        Row(
            f"{label}-{processes}-processes",
            "throughput",
            "images/s",
            round(images_per_s(pictures, size[0] * size[1], seconds, processes), 1),
        )
        for processes in sorted({1, usable_cores()})
    ]


def main() -> int:
    """The pictures of each task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    args = parser.parse_args()
    report = GrowingReport(args.out, "decode", cores=usable_cores())
    for task, (width, height, size) in PICTURES.items():
        pictures = jpeg_pictures(width, height, number=_DIFFERENT, target_bytes=size)
        report.add(decoding_rows(f"{task}-{width}x{height}", pictures, args.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
