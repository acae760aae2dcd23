"""Peers of like accuracy, and our own network without our backend, through PyTorch on one GPU.

python -m benchmarks.bench_rivals --out benchmarks/results/rivals-h100.json

Random weights, random input that is already on the device, channels-last, inference mode. Peers
come from timm (`pip install timm`) and run in bfloat16; our reference network (`classify-tiny`,
`classify-small`, `classify-base`) runs in float16. Each is timed eagerly, through `torch.compile`,
and as a CUDA graph of the compiled network, so that no figure contains launch overhead that a
graph would have saved. Compiling is most of the time: the first models matter most.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.bench_cpu import make_spec
from benchmarks.deadline import Deadline
from benchmarks.gpu_timing import (
    CapturedGraph,
    PeakMemory,
    allocated,
    device_ceilings,
    on_cuda,
    release,
    synchronise,
    time_calls,
)
from benchmarks.report import GrowingReport, Row
from model.checkpoint import build_network
from model.config import TaskName
from model.inference import optimise_for_inference

OURS: Final = "classify-"
MODELS: Final = (
    "caformer_s18",
    "classify-tiny",
    "caformer_s36",
    "classify-small",
    "caformer_m36",
    "classify-base",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
)
EAGER, COMPILED, GRAPH = "eager", "torch.compile", "torch.compile + graph"
AUTOTUNED: Final = "torch.compile max-autotune + graph"


@dataclass(frozen=True, slots=True)
class Job:
    """One model at one square input size and batch size."""

    model: str
    size: int
    batch: int

    @property
    def case(self) -> str:
        return f"{self.model}-{self.size}-b{self.batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to measure.

    Attributes:
        budget_s: seconds of timed calls for each figure.
        eager: also without compiling.
        cold_l2: at batch 1 also with the cache overwritten before every call.
        max_autotune: at batch 1 also with the compiler's longest search.
    """

    device: str = "cuda:0"
    budget_s: float = 1.0
    eager: bool = True
    cold_l2: bool = False
    max_autotune: bool = False


@dataclass(slots=True)
class Subject:
    """A network with its input on the device."""

    job: Job
    network: nn.Module
    images: Tensor
    resident: int
    options: Options
    report: GrowingReport
    deadline: Deadline = field(default_factory=lambda: Deadline(float("inf")))

    def attempt(self, how: str, prepare: Callable[[], Callable[[], Any]]) -> bool:
        """Measure one way to run the network; a failure is reported and ends this way only."""
        job = self.job
        if self.deadline.passed:
            self.report.fail(f"{job.case}, {how}", "not measured: the time limit was reached")
            return False
        try:
            self.report.add(self._measure(how, prepare))
        except Exception as exc:  # noqa: BLE001 - whatever a foreign model raises, the rest must run
            self.report.fail(f"{job.case}, {how}", exc)
            return False
        return True

    def _measure(self, how: str, prepare: Callable[[], Callable[[], Any]]) -> list[Row]:
        job, options = self.job, self.options
        timed = partial(time_calls, device=options.device, budget_s=options.budget_s)
        with torch.inference_mode():
            start = time.perf_counter()
            call = prepare()
            call()
            synchronise(options.device)
            first = time.perf_counter() - start
            # after the first call, whose searches for the best kernel have memory of their own
            with PeakMemory(options.device, self.resident) as peak:
                timing = timed(call)
            rows = timing.rows(job.case, job.batch, how)
            if options.cold_l2 and job.batch == 1:
                rows += timed(call, cold_l2=True).rows(job.case, how=how)
        if how in (EAGER, COMPILED):  # what a graph holds is not visible in its replays
            rows += peak.rows(job.case, how)
        if how in (COMPILED, AUTOTUNED):
            rows.append(Row(job.case, f"{how}: first call", "s", first))
        return rows


def build(name: str) -> tuple[nn.Module, torch.dtype]:
    """A network with random weights, channels-last, for inference, on the CPU.

    Raises:
        RuntimeError: a peer is asked for and timm is not installed.
    """
    torch.manual_seed(0)
    if name.startswith(OURS):
        spec = make_spec(TaskName.CLASSIFY, name.removeprefix(OURS))
        return optimise_for_inference(build_network(spec)), torch.float16
    try:
        import timm
    except ImportError as exc:
        raise RuntimeError(f"{name} comes from timm: pip install timm") from exc
    network = timm.create_model(name, pretrained=False).eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last), torch.bfloat16


def run_job(job: Job, options: Options, report: GrowingReport, deadline: Deadline) -> None:
    """Measure a model in every way that is asked for; never raises for the model's sake."""
    before = allocated(options.device)
    try:
        network, dtype = build(job.model)
        network = network.to(options.device, dtype)
        images = torch.randn(job.batch, 3, job.size, job.size, device=options.device, dtype=dtype)
        images = images.contiguous(memory_format=torch.channels_last)
    except Exception as exc:  # noqa: BLE001 - as in Subject.attempt
        report.fail(job.case, exc)
        return
    resident = allocated(options.device) - before
    subject = Subject(job, network, images, resident, options, report, deadline)
    if options.eager:
        subject.attempt(EAGER, lambda: partial(network, images))
    _attempt_compiled(subject, COMPILED, GRAPH, mode="default")
    if options.max_autotune and job.batch == 1:
        _attempt_compiled(subject, AUTOTUNED, None, mode="max-autotune-no-cudagraphs")


def _attempt_compiled(subject: Subject, how: str, then: str | None, *, mode: str) -> None:
    """Compile and measure, then, if that worked, as a graph.

    Args:
        then: None: the compiled network is measured as a graph at once, under the name `how`.
    """
    # one shape only: a network made for all shapes would be slower
    compiled = torch.compile(subject.network, mode=mode, dynamic=False)
    call = partial(compiled, subject.images)
    graphs = on_cuda(subject.options.device)
    if then is None and graphs:
        subject.attempt(how, lambda: CapturedGraph(call))
    elif subject.attempt(how, lambda: call) and then is not None and graphs:
        subject.attempt(then, lambda: CapturedGraph(call))


def run(jobs: Sequence[Job], options: Options, report: GrowingReport, deadline: Deadline) -> None:
    """All jobs in order; what the deadline leaves out is listed as a failure."""
    for job in jobs:
        if deadline.passed:
            report.fail(job.case, "not measured: the time limit was reached")
            continue
        run_job(job, options, report, deadline)
        torch.compiler.reset()  # else the compiled code keeps this network and its memory
        release(options.device)


def plan(models: Sequence[str], sizes: Sequence[int], batches: Sequence[int]) -> list[Job]:
    """Large batches first, then models in the order given."""
    return [
        Job(model, size, batch)
        for size in sizes
        for batch in sorted(batches, reverse=True)
        for model in models
    ]


def numbers(text: str) -> list[int]:
    """`1,128` -> [1, 128]."""
    return [int(part) for part in text.split(",")]


def words(text: str) -> list[str]:
    """`a,b` -> ["a", "b"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", type=words, default=list(MODELS), help=",".join(MODELS))
    parser.add_argument("--batches", type=numbers, default=[1, 128])
    parser.add_argument("--sizes", type=numbers, default=[224])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--budget-s", type=float, default=1.0)
    parser.add_argument("--limit-s", type=float, default=540.0, help="of the whole run")
    parser.add_argument("--no-eager", dest="eager", action="store_false")
    parser.add_argument("--cold-l2", action="store_true")
    parser.add_argument("--max-autotune", action="store_true")
    args = parser.parse_args()
    deadline = Deadline(args.limit_s)
    torch.backends.cudnn.benchmark = True
    options = Options(
        device=args.device,
        budget_s=args.budget_s,
        eager=args.eager,
        cold_l2=args.cold_l2,
        max_autotune=args.max_autotune,
    )
    report = GrowingReport(
        args.out,
        "rivals",
        precision={"classify-*": "float16", "others": "bfloat16"},
        layout="channels-last",
        input="on the device",
    )
    if on_cuda(args.device):
        report.add(device_ceilings(args.device))
    run(plan(args.models, args.sizes, args.batches), options, report, deadline)


if __name__ == "__main__":
    main()
