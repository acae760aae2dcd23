"""How far the compiled models are from the published implementation, on a GPU.

python -m benchmarks.golden_gpu --out benchmarks/results/golden-gpu-float16.json

All reference cases with photographs and with synthetic input. The program ends with status 1 when a
value is outside its tolerance; the file has all of them, and names these.
"""

import argparse
from pathlib import Path
from typing import Final

import torch

from benchmarks.report import GrowingReport, Row
from tests.model.golden_gpu import GpuModels, GpuRow, case_names, compare, outside

DTYPES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# by the last word of the metric
UNITS: Final = {
    "logit": "logit",
    "probability": "probability",
    "score": "probability",
    "px": "px",
}


def row_of(own: GpuRow) -> Row:
    """The same, as a result file has it."""
    unit = UNITS.get(own.metric.split()[-1], "ratio")
    return Row(own.case, own.metric, unit, own.value)


def run(report: GrowingReport, models: GpuModels) -> None:
    """All cases; one that fails or is not near enough is listed under `failures`."""
    for name in case_names():
        try:
            rows = compare(name, models)
        except Exception as exc:  # noqa: BLE001 - the other cases must still run
            report.fail(name, exc)
            continue
        report.add(row_of(own) for own in rows)
        if far := outside(rows):
            report.fail(name, "; ".join(f"{own.metric}: {own.value:.4g}" for own in far))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float16")
    parser.add_argument("--device", default="cuda:0")
    args = parser.parse_args()
    report = GrowingReport(args.out, "golden-gpu", dtype=args.dtype)
    run(report, GpuModels(DTYPES[args.dtype], args.device))
    if report.failures:
        raise SystemExit(f"outside the tolerance: {', '.join(report.failures)}")


if __name__ == "__main__":
    main()
