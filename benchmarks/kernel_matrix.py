"""Every inference kernel, shape and dtype against float64 on the GPU; writes the result file.

python -m benchmarks.kernel_matrix [--processes 12] [--out FILE]
"""

import argparse
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.report import ROOT, Row, write_report
from tests.kernels.cuda_ops import CUDA_OPS, serves
from tests.kernels.error_ratios import error_ratio_of, max_ratio
from tests.kernels.inference_ops import NARROW, OPS, Draw, Shape
from tests.kernels.test_inference_kernels import HUGE, SMALL, STAGES

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Task = tuple[str, Shape, str]


def tasks() -> list[Task]:
    """Of the Triton kernels; they compile without a GPU, too."""
    return [
        (op, shape, dtype)
        for shape in (*HUGE, *STAGES, *SMALL)
        for op in OPS
        for dtype in DTYPES
        if op not in NARROW or shape[3] <= 192
    ]


def cuda_tasks() -> list[Task]:
    """Of the CUDA C++ kernels, as far as this GPU has them."""
    return [
        (op, shape, dtype)
        for shape in (*HUGE, *STAGES, *SMALL)
        for op in CUDA_OPS
        for dtype in DTYPES
        if serves(op, shape, DTYPES[dtype])
    ]


def check(task: Task) -> tuple[Task, float, float, str]:
    op, shape, dtype = task
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        case = {**OPS, **CUDA_OPS}[op](Draw(shape, DTYPES[dtype], "cuda"))
        error, ratio = error_ratio_of(op, case)
    except Exception as exc:  # noqa: BLE001 - a kernel that fails is a row of the table
        return task, float("nan"), float("inf"), f"{type(exc).__name__}: {str(exc)[:300]}"
    finally:
        torch.cuda.empty_cache()
    return task, error, ratio, ""


def run(report: Callable[[str], None], processes: int) -> list[Row]:
    rows, failed = [], 0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for (op, shape, dtype), error, ratio, message in pool.imap_unordered(
            check, [*cuda_tasks(), *tasks()]
        ):
            case = f"{op}-{'x'.join(str(n) for n in shape)}-{dtype}"
            rows.append(Row(case, "max error", "abs", error))
            rows.append(Row(case, "max error / that of the reference", "ratio", ratio))
            if not ratio <= max_ratio(DTYPES[dtype], "cuda"):
                failed += 1
                report(f"{case}: {ratio:.2f} {message}")
    worst = max(row.value for row in rows if row.unit == "ratio")
    report(f"{len(rows) // 2 - failed} passed, {failed} failed; worst ratio {worst:.2f}")
    return sorted(rows, key=lambda row: row.case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/kernel-matrix-h100.json"
    )
    args = parser.parse_args()
    rows = run(lambda line: print(line, flush=True), args.processes)
    write_report(args.out, "kernel-matrix", rows)


if __name__ == "__main__":
    main()
