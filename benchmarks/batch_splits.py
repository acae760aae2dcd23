"""Two ways to split a large batch, beside the batch as a whole: slices and streams.

python -m benchmarks.batch_splits --out benchmarks/results/batch-splits-h100.json

Slices: a few pictures at a time go through the first stages, so that their maps may stay in the
second-level cache; their results are joined, and the other stages see the whole batch. Streams:
parts of the batch run side by side, so that memory and arithmetic may overlap. Each way is one CUDA
graph of the backbone alone, with random pixels on the device.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from benchmarks.compiled_model import backbone_of, build_compiled, random_pixels
from benchmarks.gpu_timing import CapturedGraph, on_cuda, release, time_calls
from benchmarks.report import GrowingReport, Row
from model.compiled.backbone import CompiledBackbone
from model.config import TaskName

HW: Final = (224, 224)
CASES: Final = (("tiny", 128), ("tiny", 256), ("small", 128), ("base", 128))
# pictures of a slice, and the stages it goes through
SLICES: Final = ((16, 1), (32, 1), (64, 1), (16, 2), (32, 2), (64, 2))
STREAMS: Final = (2, 4)
STAGES: Final = 4
WHOLE: Final = "whole"

Run = Callable[[], Tensor]


def through(backbone: CompiledBackbone, x: Tensor, stages: range) -> Tensor:
    """A map through some of the stages and the down-sampling after each."""
    for i in stages:
        for block in backbone._stages[i]:
            x = block(x)
        if i < len(backbone._downsamples):
            x = backbone._downsamples[i](x)
    return x


def in_slices(backbone: CompiledBackbone, pictures: Tensor, size: int, stages: int) -> Tensor:
    """The last stage's map.

    Args:
        pictures: (B, H, W, 4) uint8.
        size: pictures that go through the stem and the first `stages` stages together.
    """
    parts = [
        through(backbone, backbone._stem(part), range(stages)) for part in pictures.split(size)
    ]
    return through(backbone, torch.cat(parts), range(stages, STAGES))


def in_streams(
    backbone: CompiledBackbone, pictures: Tensor, streams: Sequence[torch.cuda.Stream]
) -> Tensor:
    """The last stage's map, an equal part of the batch on each stream."""
    current, maps = torch.cuda.current_stream(), []
    for part, stream in zip(pictures.chunk(len(streams)), streams, strict=True):
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            maps.append(backbone(part)[-1])
    for stream in streams:
        current.wait_stream(stream)
    return torch.cat(maps)


def ways(backbone: CompiledBackbone, pictures: Tensor, device: str) -> Iterator[tuple[str, Run]]:
    """What each way is called, and itself; the whole first and last, since clocks drift."""
    yield WHOLE, lambda: backbone(pictures)[-1]
    for size, stages in SLICES:
        name = f"slices of {size}, stage{' 1' if stages == 1 else f's 1 to {stages}'}"
        yield name, lambda size=size, stages=stages: in_slices(backbone, pictures, size, stages)
    if on_cuda(device):
        for count in STREAMS:
            streams = [torch.cuda.Stream(device) for _ in range(count)]
            yield f"{count} streams", lambda own=streams: in_streams(backbone, pictures, own)
    yield f"{WHOLE}, again", lambda: backbone(pictures)[-1]


def measure(case: str, batch: int, how: str, run: Run, device: str, budget_s: float) -> list[Row]:
    """Throughput and latency of one way; as a graph on CUDA."""
    timing = time_calls(CapturedGraph(run) if on_cuda(device) else run, device, budget_s=budget_s)
    return timing.rows(case, batch, how)


def run_case(report: GrowingReport, variant: str, batch: int, device: str, budget_s: float) -> None:
    """All ways of one case; one that fails is under `failures`."""
    backbone = backbone_of(build_compiled(TaskName.CLASSIFY, variant, HW, device))
    pictures, case = random_pixels(batch, HW, device), f"backbone-{variant}-b{batch}"
    for how, run in ways(backbone, pictures, device):
        try:
            report.add(measure(case, batch, how, run, device, budget_s))
        except RuntimeError as exc:  # out of memory, most likely
            report.fail(f"{case}, {how}", exc)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget-s", type=float, default=0.4, help="of one way of one case")
    parser.add_argument("--device", default="cuda:0")
    args = parser.parse_args()
    report = GrowingReport(args.out, "batch-splits")
    with torch.inference_mode():
        for variant, batch in CASES:
            run_case(report, variant, batch, args.device, args.budget_s)
            release(args.device)


if __name__ == "__main__":
    main()
