"""The CPU path: what scan and fusion cost beside the rest, and images per second per task.

python -m benchmarks.bench_cpu
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import ROOT, Row, write_report
from kernels import FUSED, KernelOps
from model.checkpoint import build_network
from model.config import PUBLISHED_INPUTS, ModelSpec, TaskName
from model.inference import optimise_for_inference
from model.predictor import Predictor
from model.results import DEFAULT_PARAMS


class Stopwatch:
    """Adds up the time spent in wrapped functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            self.seconds += time.perf_counter() - start
            return result

        return timed


def make_spec(task: TaskName, variant: str) -> ModelSpec:
    names = tuple(str(i) for i in range({"classify": 1000, "detect": 80, "segment": 150}[task]))
    return ModelSpec(
        name=f"{variant}-{task}",
        task=task,
        variant=variant,
        class_names=names,
        input=PUBLISHED_INPUTS[task],
    )


def bench_operators(variant: str, repeats: int) -> list[Row]:
    """Median times of one 224 x 224 image: both operators, and everything else."""
    watch = Stopwatch()
    ops = KernelOps(
        selective_scan=watch.around(FUSED.selective_scan),
        state_fusion=watch.around(FUSED.state_fusion),
    )
    spec = make_spec(TaskName.CLASSIFY, variant)
    network = optimise_for_inference(build_network(spec, ops=ops))
    images = torch.randn(1, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    operators, rest = [], []
    with torch.inference_mode():
        for i in range(repeats + 3):
            watch.seconds = 0.0
            start = time.perf_counter()
            network(images)
            total = time.perf_counter() - start
            if i >= 3:
                operators.append(watch.seconds)
                rest.append(total - watch.seconds)
    ours, others = statistics.median(operators), statistics.median(rest)
    case = f"classify-{variant}-224-b1"
    return [
        Row(case, "scan + fusion", "ms", 1e3 * ours),
        Row(case, "rest of the network", "ms", 1e3 * others),
        Row(case, "scan + fusion / rest", "ratio", ours / others),
    ]


def bench_pipeline(predictor: Predictor, case: str, repeats: int) -> Row:
    """Median seconds from RGB pixels to the answer, one 640 x 427 photograph at a time."""
    rgb = np.random.default_rng(0).integers(0, 256, (427, 640, 3), dtype=np.uint8)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        prepared = predictor.prepare(rgb)
        raw = predictor.infer([prepared], [DEFAULT_PARAMS[predictor.spec.task]])[0]
        predictor.finish(raw, prepared)
        times.append(time.perf_counter() - start)
    return Row(case, "latency", "ms", 1e3 * statistics.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/cpu.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = bench_operators("tiny", args.repeats)
    for path in sorted((ROOT / "demo/weights").glob("*.safetensors")):
        rows.append(bench_pipeline(Predictor.load(path), path.stem, args.repeats))
    for task in TaskName:
        spec = make_spec(task, "tiny")
        repeats = args.repeats if task is TaskName.CLASSIFY else 3
        rows.append(bench_pipeline(Predictor(build_network(spec), spec), spec.name, repeats))
    for row in rows:
        print(f"{row.case:32} {row.metric:24} {row.value:10.2f} {row.unit}")
    write_report(args.out, "cpu", rows)


if __name__ == "__main__":
    main()
