"""float16 against bfloat16: the eager network in either, against the published float32 logits.

python -m benchmarks.half_dtypes --out benchmarks/results/half-dtypes-cpu.json

Both keep scan states and sums of the operators in float32, as the GPU path does; the library's
layers round their results to the dtype.
"""

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Final

import torch

from benchmarks.report import GrowingReport, Row
from tests.model import golden
from tests.model.golden_runs import load_published

DTYPES: Final = (torch.float16, torch.bfloat16)


def cases() -> list[str]:
    """Synthetic inputs of the three classifiers, 224 x 224."""
    return [name for name in golden.case_names(kind="tensor", task="classify") if "224x224" in name]


@torch.inference_mode()
def compare(name: str) -> list[Row]:
    """Relative error of the logits and whether every best class is the published one."""
    info, ref = golden.load_case(name)
    network = load_published(info["manifest"])._network
    images = torch.from_numpy(golden.module("fill").make_input(*info["input"]["make_input"]))
    images = images.contiguous(memory_format=torch.channels_last)
    expected = torch.from_numpy(ref["logits"]).double()
    rows = []
    for dtype in DTYPES:
        logits = deepcopy(network).to(dtype)(images.to(dtype)).double()
        error = float((logits - expected).norm() / expected.norm())
        same = (logits.argmax(1) == expected.argmax(1)).double().mean().item()
        own = str(dtype).removeprefix("torch.")
        rows.append(Row(name, f"{own}: relative error", "ratio", error))
        rows.append(Row(name, f"{own}: top 1 is the same", "ratio", same))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    report = GrowingReport(args.out, "half-dtypes")
    for name in cases():
        report.add(compare(name))


if __name__ == "__main__":
    main()
