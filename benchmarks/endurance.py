"""Many passes over pictures of random shapes: memory stays flat, nothing is NaN.

python -m benchmarks.endurance --out benchmarks/results/endurance-h100.json [--passes 10000]

Every launch is made by itself, so the processor sets the pace; with `--limit-s` it stops in time,
and the result says how many passes it was.
"""

import argparse
import random
from pathlib import Path

import torch

from benchmarks.compiled_model import build_compiled, forward_ungraphed, random_pixels
from benchmarks.deadline import Deadline
from benchmarks.report import Row, write_report
from model.config import TaskName

SIDES = (32, 64, 96, 160, 224, 231)
BATCHES = (1, 2, 5)
# kernels and library handles allocate on first use
WARM_UP = 400
MIB = 2**20


def run(passes: int, device: str, limit_s: float) -> list[Row]:
    """Allocated memory between passes after the warm-up: lowest, highest, and at the end.

    Raises:
        SystemExit: a pass gave NaN or Inf, or the time was not enough for the warm-up.
    """
    predictor = build_compiled(TaskName.CLASSIFY, "tiny", (224, 224), device)
    choose, seen = random.Random(0), []  # noqa: S311 - shapes, not secrets
    deadline = Deadline(limit_s)
    for i in range(passes):
        if deadline.passed:
            passes = i
            break
        if i % 1000 == 0:
            print(f"{i} of {passes} passes", flush=True)
        hw = choose.choice(SIDES), choose.choice(SIDES)
        logits = forward_ungraphed(predictor, random_pixels(choose.choice(BATCHES), hw, device))
        if not logits.isfinite().all():
            raise SystemExit(f"pass {i} over {hw} is not finite")
        del logits
        if i >= WARM_UP:
            seen.append(torch.cuda.memory_allocated(device) / MIB)
    if not seen:
        raise SystemExit(f"{passes} passes are not enough: {WARM_UP} are the warm-up")
    case = f"classify-tiny-{passes}-passes"
    return [
        Row(case, "allocated, lowest", "MiB", min(seen)),
        Row(case, "allocated, highest", "MiB", max(seen)),
        Row(case, "allocated, at the end", "MiB", seen[-1]),
        Row(case, "reserved", "MiB", torch.cuda.memory_reserved(device) / MIB),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passes", type=int, default=10_000)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--limit-s", type=float, default=float("inf"))
    args = parser.parse_args()
    with torch.inference_mode():
        rows = run(args.passes, args.device, args.limit_s)
    for row in rows:
        print(f"{row.metric:24} {row.value:10.1f} {row.unit}")
    write_report(args.out, "endurance", rows)


if __name__ == "__main__":
    main()
