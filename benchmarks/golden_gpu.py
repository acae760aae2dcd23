"""How far the compiled models are from the published implementation, on a GPU.

python -m benchmarks.golden_gpu --out benchmarks/results/golden-gpu-float16.json

All reference cases with photographs and with synthetic input; in half precision beside what
PyTorch itself makes of the network in the same dtype. The program ends with status 1 when a value
is outside its tolerance; the file has all of them, and names these.
"""

import argparse
import multiprocessing
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import torch

from benchmarks.report import GrowingReport, Row
from tests.model import golden
from tests.model.golden_gpu import (
    GpuModels,
    GpuRow,
    case_names,
    compare,
    describe,
    mean_found,
    outside,
)

DTYPES: Final = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
# by the last word of the metric
UNITS: Final = {
    "logit": "logit",
    "probability": "probability",
    "score": "probability",
    "px": "px",
}


def rows_of(own: GpuRow) -> Iterator[Row]:
    """The same, as a result file has it."""
    unit = UNITS.get(own.metric.split()[-1], "ratio")
    yield Row(own.case, own.metric, unit, own.value)
    if own.plain is not None:
        yield Row(own.case, f"PyTorch: {own.metric}", unit, own.plain)


def run_cases(task: tuple[Sequence[str], str, str]) -> list[tuple[str, list[GpuRow], str]]:
    """Per case its comparisons, or the reason why there are none."""
    names, dtype, device = task
    models, done = GpuModels(DTYPES[dtype], device), []
    for name in names:
        try:
            done.append((name, compare(name, models), ""))
        except Exception as exc:  # noqa: BLE001 - the other cases must still run
            done.append((name, [], f"{type(exc).__name__}: {exc}"))
    return done


def run(report: GrowingReport, dtype: str, device: str, processes: int, only: str) -> None:
    """All cases, a process per model; one that fails or is too far off is under `failures`."""
    names = [name for name in case_names() if name.startswith(tuple(only.split(",")))]
    groups = [list(own) for _, own in groupby(names, key=manifest_of)]
    every: list[GpuRow] = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        tasks = [(names, dtype, device) for names in groups]
        for done in pool.imap_unordered(run_cases, tasks):
            for name, rows, reason in done:
                every += rows
                report.add(row for own in rows for row in rows_of(own))
                if reason:
                    report.fail(name, reason)
                elif far := outside(rows):
                    report.fail(name, "; ".join(map(describe, far)))
    if (found := mean_found(every)) is not None:
        report.add(rows_of(found))
        if not found.ok:
            report.fail(found.case, describe(found))


def manifest_of(name: str) -> str:
    """The model of a case."""
    return str(golden.load_case(name)[0]["manifest"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float16")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--only", default="", help="beginnings of names, with commas between")
    args = parser.parse_args()
    report = GrowingReport(args.out, "golden-gpu", dtype=args.dtype)
    run(report, args.dtype, args.device, args.processes, args.only)
    if report.failures:
        raise SystemExit(f"outside the tolerance: {', '.join(report.failures)}")


if __name__ == "__main__":
    main()
