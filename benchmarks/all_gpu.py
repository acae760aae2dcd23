"""Everything that is measured on a GPU, in the order of importance, when GPU minutes are scarce.

python -m benchmarks.all_gpu [--limit-s 540] [--out benchmarks/results]
python -m benchmarks.all_gpu --only compare-kernels,golden-gpu-bfloat16 --compiled

Triton and Inductor compile on the processor, for minutes: first all programs run side by side with
a tiny budget, which fills their caches; then they run one after the other and measure. `--compiled`
leaves that out, e.g. where `benchmarks.precompile` has filled Triton's.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import ROOT
from benchmarks.steps import FOLDER, Step

PEERS = (
    "caformer_s18",
    "classify-tiny",
    "caformer_s36",
    "caformer_m36",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
)
# one process each while compiling: cases that share a process compile one after the other
CASE_GROUPS = (
    "classify-tiny-224-b128,classify-tiny-224-b32,classify-tiny-224-b1",
    "classify-small-224-b128",
    "classify-base-224-b128",
    "segment-tiny-512x512-b16,segment-tiny-512x512-b1",
    "detect-tiny-800x1344-b4,detect-tiny-800x1344-b1",
)
# these compile nothing that the groups do not, or are to be timed with it
OTHER_CASES = ",".join(
    [f"classify-tiny-224-{kind}" for kind in ("warm-up", "b1-uint8-to-host", "b1-resident-to-host")]
    + [f"classify-tiny-224-b{batch}" for batch in (2, 4, 8, 16, 64, 256)]
    + [f"classify-tiny-{side}-b1" for side in (112, 384, 512)]
)
RIVALS = "rivals-h100.json"
MEASUREMENTS = (
    Step(
        "benchmarks.bench_rivals",
        RIVALS,
        ("--budget-s", "0.4", "--no-eager", "--batches", "128,1", "--models", ",".join(PEERS)),
        120,
    ),
    Step(
        "benchmarks.bench_gpu",
        "gpu-h100.json",
        (
            "--budget-s",
            "0.4",
            "--cases",
            ",".join((*CASE_GROUPS, OTHER_CASES)),
            "--against",
            f"{FOLDER}/{RIVALS}",
        ),
        120,
    ),
    Step("benchmarks.bench_kernels", "kernels-h100.json", (), 30),
    Step("benchmarks.compare_kernels", "compare-kernels-h100.json", (), 60),
    Step("benchmarks.kernel_matrix", "kernel-matrix-h100.json", (), 150),
    Step("benchmarks.golden_gpu", "golden-gpu-float16.json", (), 240),
    Step("benchmarks.endurance", "endurance-h100.json", (), 150),
    Step("benchmarks.half_precision", "half-precision-h100.json", (), 240),
    Step("benchmarks.golden_gpu", "golden-gpu-float32.json", ("--dtype", "float32"), 240),
    # nothing that is served by default depends on these: only if time is left
    Step("benchmarks.golden_gpu", "golden-gpu-bfloat16.json", ("--dtype", "bfloat16"), 240),
    Step(
        "benchmarks.half_precision",
        "half-precision-bfloat16-h100.json",
        ("--dtype", "bfloat16"),
        240,
    ),
    Step("benchmarks.batch_splits", "batch-splits-h100.json", (), 60),
)


def chosen(beginnings: str) -> list[Step]:
    """The steps whose result file begins so; without a beginning all."""
    return [step for step in MEASUREMENTS if step.file.startswith(tuple(beginnings.split(",")))]


def compile_everything(limit_s: float) -> None:
    """Fill the compilers' caches; what is measured meanwhile is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [("benchmarks.bench_gpu", "--cases", group) for group in CASE_GROUPS] + [
            ("benchmarks.bench_rivals", "--no-eager", "--batches", "128,1", "--models", peer)
            for peer in PEERS
        ]
        running = [_start(Path(folder) / f"{i}.json", job) for i, job in enumerate(jobs)]
        deadline = time.monotonic() + limit_s
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(out: Path, job: Sequence[str]) -> "subprocess.Popen[bytes]":
    module, *arguments = job
    command = [sys.executable, "-m", module, "--out", str(out), "--budget-s", "0.05"]
    return subprocess.Popen(  # noqa: S603 - our own programs
        [*command, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--limit-s", type=float, default=540.0)
    parser.add_argument("--only", default="", help="beginnings of result files, commas between")
    parser.add_argument("--compiled", action="store_true", help="all caches are filled")
    args = parser.parse_args()
    deadline = time.monotonic() + args.limit_s
    if not args.compiled:
        compile_everything(min(150.0, args.limit_s / 3))
    for step in chosen(args.only):
        print(f"{step.module}: {step.run(args.out, deadline - time.monotonic())}", flush=True)


if __name__ == "__main__":
    main()
