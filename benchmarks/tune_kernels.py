"""Times every inference kernel with many tile sizes, for the choices in each kernel's `_tiles`.

python -m benchmarks.tune_kernels [--variant tiny] [--batch 128] [--only NAME,NAME] [--out FILE]

Compiles in parallel first, then measures one after the other.
"""

import argparse
import multiprocessing
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.kernel_trials import Trial, all_trials
from benchmarks.report import Row, write_report


def _compile(task: tuple[str, int, int]) -> None:
    name, batch, index = task
    try:
        all_trials(name, batch)[index].prepare()()
        torch.cuda.synchronize()
    except Exception as exc:  # noqa: BLE001 - reported when it is measured
        print(f"trial {index}: {type(exc).__name__}", flush=True)
    torch.cuda.empty_cache()


def measure(trial: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {"kernel": trial.name, "tiles": trial.tiles}
    try:
        microseconds = 1e3 * triton.testing.do_bench(
            trial.prepare(), warmup=5, rep=25, return_mode="median"
        )
    except Exception as exc:  # noqa: BLE001 - one tile size too many is no reason to stop
        return row | {"error": f"{type(exc).__name__}: {str(exc)[:60]}"}
    return row | {"us": microseconds, "gb_s": trial.traffic / microseconds / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="tiny")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--top", type=int, default=3, help="lines per kernel")
    args = parser.parse_args()
    trials = all_trials(args.variant, args.batch)
    wanted = tuple(args.only.split(","))
    chosen = [i for i, trial in enumerate(trials) if trial.name.startswith(wanted)]
    with multiprocessing.get_context("spawn").Pool(12) as pool:
        pool.map(_compile, [(args.variant, args.batch, i) for i in chosen], chunksize=1)
    rows = []
    for i in chosen:
        row = measure(trials[i])
        rows.append(row)
        torch.cuda.empty_cache()
    shown: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (row["kernel"], row.get("us", 1e9))):
        shown[row["kernel"]] = shown.get(row["kernel"], 0) + 1
        if shown[row["kernel"]] <= args.top and "us" in row:
            speed = f"{row['us']:9.1f} us {row['gb_s']:7.0f} GB/s"
            print(f"{row['kernel']:40} {row['tiles']!s:24} {speed}")
    if args.out:
        measured = [row for row in rows if "us" in row]
        cases = [
            Row(f"{row['kernel']} {row['tiles']}", "time", "us", row["us"]) for row in measured
        ]
        write_report(args.out, "tune-kernels", cases)


if __name__ == "__main__":
    main()
