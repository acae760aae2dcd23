"""Our compiled model on one GPU: throughput, latency, memory, start-up, distance to the ceiling.

python -m benchmarks.bench_gpu --out benchmarks/results/gpu-h100.json \
    --against benchmarks/results/rivals-h100.json

Random weights and pixels. Most cases time the captured graph with input and output on the device;
`-uint8-to-host` and detection time `infer` by the host's clock, with all copies, and
`-resident-to-host` has its pixels on the device and its answer on the host. A variant's
`-warm-up` case comes first, so that it contains the compilation of the kernels.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

import torch

from benchmarks import roofline
from benchmarks.bench_rivals import COMPILED, GRAPH, words
from benchmarks.compiled_model import (
    DEFAULT_BUCKETS,
    PARAMS,
    CompiledModel,
    build_compiled,
    forward_resident,
    forward_ungraphed,
    random_picture,
    random_pixels,
)
from benchmarks.deadline import Deadline
from benchmarks.gpu_timing import (
    PeakMemory,
    allocated,
    device_ceilings,
    on_cuda,
    release,
    synchronise,
    time_calls,
    time_wall,
)
from benchmarks.report import GrowingReport, Row, device_name, read_rows
from model.compiled.transfer import to_host
from model.config import TaskName

VARIANTS: Final = ("tiny", "small", "base")
# the largest batch first: a run that is cut short has the figures that matter most
BATCHES: Final = (128, 1, 256, 64, 32, 16, 8, 4, 2)
OTHER_SIZES: Final = (112, 384, 512)
DENSE: Final = {
    TaskName.SEGMENT: ((512, 512), (1, 16)),
    TaskName.DETECT: ((800, 1344), (1, 4)),
}
# below this a classifier's activations fit in the cache and the memory ceiling means nothing
ROOFLINE_BATCH: Final = 64


class Kind(StrEnum):
    """What is timed; the value ends the case's name."""

    RESIDENT = ""
    TO_HOST = "uint8-to-host"
    RESIDENT_TO_HOST = "resident-to-host"
    WARM_UP = "warm-up"


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the plan; `batch` is 0 for a warm-up, which covers all buckets."""

    task: TaskName
    variant: str
    hw: tuple[int, int]
    batch: int
    kind: Kind = Kind.RESIDENT

    @property
    def name(self) -> str:
        classify = self.task is TaskName.CLASSIFY
        size = str(self.hw[0]) if classify else f"{self.hw[0]}x{self.hw[1]}"
        batch = f"b{self.batch}" if self.batch else ""
        return "-".join(part for part in (self.task, self.variant, size, batch, self.kind) if part)

    @property
    def model(self) -> tuple[TaskName, str, tuple[int, int]]:
        """Cases in which this is equal share one predictor."""
        return self.task, self.variant, self.hw


def all_cases() -> list[Case]:
    """The plan, most important first within each variant."""
    cases = []
    for variant in VARIANTS:
        make = partial(Case, TaskName.CLASSIFY, variant)
        cases.append(make((224, 224), 0, Kind.WARM_UP))
        cases += [make((224, 224), batch) for batch in BATCHES]
        if variant == "tiny":
            cases += [make((224, 224), 1, kind) for kind in (Kind.TO_HOST, Kind.RESIDENT_TO_HOST)]
            cases += [make((size, size), 1) for size in OTHER_SIZES]
    for task, (hw, batches) in DENSE.items():
        cases += [Case(task, "tiny", hw, batch) for batch in batches]
    return cases


def select(tasks: Iterable[str], variants: Iterable[str], names: Iterable[str]) -> list[Case]:
    """Cases of these tasks and variants; names, if any, choose among all cases instead.

    Raises:
        ValueError: a name that is no case, or nothing left.
    """
    known = {case.name: case for case in all_cases()}
    names = list(names)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown cases {unknown}, known: {', '.join(known)}")
    chosen = [known[name] for name in names] or [
        case for case in known.values() if case.task in set(tasks) and case.variant in set(variants)
    ]
    if not chosen:
        raise ValueError(f"no case has tasks {tasks} and variants {variants}")
    return chosen


class Bench:
    """Runs cases one by one and keeps the predictor while consecutive cases share it."""

    def __init__(
        self,
        report: GrowingReport,
        *,
        device: str,
        budget_s: float,
        cold_l2: bool = False,
        against: Sequence[Row] = (),
    ) -> None:
        self._report, self._device, self._budget_s = report, device, budget_s
        self._cold_l2, self._against = cold_l2, against
        self._model: tuple[TaskName, str, tuple[int, int]] | None = None
        self._predictor: CompiledModel | None = None
        self._weights = 0

    def run(self, cases: Iterable[Case], deadline: Deadline) -> None:
        """Measure; a case that fails or comes too late is reported as such."""
        for case in cases:
            if deadline.passed:
                self._report.fail(case.name, "not measured: the time limit was reached")
                continue
            try:
                self._run_case(case, self._predictor_of(case))
            except Exception as exc:  # noqa: BLE001 - the other cases must still run
                self._report.fail(case.name, exc)
                self._drop()

    @torch.inference_mode()
    def _run_case(self, case: Case, predictor: CompiledModel) -> None:
        if case.kind is Kind.WARM_UP:
            self._report.add(self._warm_up(case, predictor))
            self._drop()  # the next case captures its own graph
            return
        if case.kind is Kind.TO_HOST:
            self._report.add(self._to_host(case, predictor, (99,)))
            return
        if case.kind is Kind.RESIDENT_TO_HOST:
            self._report.add(self._resident_to_host(case, predictor))
            return
        if case.task is TaskName.DETECT:
            self._report.add(self._to_host(case, predictor, (10, 90, 99)))
            self._report.add(self._resident(case, predictor, "on the device"))
        else:
            rows = self._resident(case, predictor)
            self._report.add([*rows, *self._ratios(case, rows)])
        self._report.add(self._memory(case, predictor))

    def _predictor_of(self, case: Case) -> CompiledModel:
        is_used = case.kind is Kind.WARM_UP  # graphs of the cases before would be found captured
        if self._predictor is None or self._model != case.model or is_used:
            self._drop()
            before = allocated(self._device)
            self._predictor = build_compiled(*case.model, self._device)
            self._model, self._weights = case.model, allocated(self._device) - before
        return self._predictor

    def _drop(self) -> None:
        self._predictor = self._model = None
        release(self._device)

    def _warm_up(self, case: Case, predictor: CompiledModel) -> list[Row]:
        start = time.perf_counter()
        predictor.warm_up(DEFAULT_BUCKETS, [case.hw])
        synchronise(self._device)
        return [Row(case.name, "warm-up", "s", time.perf_counter() - start)]

    def _resident(self, case: Case, predictor: CompiledModel, how: str = "") -> list[Row]:
        images = random_pixels(case.batch, case.hw, self._device)
        call = partial(forward_resident, predictor, images)
        timed = partial(time_calls, call, self._device, budget_s=self._budget_s)
        rows = timed().rows(case.name, case.batch, how)
        if self._cold_l2 and case.batch == 1:
            rows += timed(cold_l2=True).rows(case.name, how=how)
        return rows

    def _to_host(
        self, case: Case, predictor: CompiledModel, percentiles: tuple[int, ...]
    ) -> list[Row]:
        prepared = [predictor.prepare(random_picture(case.task, case.hw))] * case.batch
        params = [PARAMS[case.task]] * case.batch
        call = partial(predictor.infer, prepared, params)
        timing = time_wall(call, self._device, budget_s=self._budget_s)
        return timing.rows(case.name, case.batch, percentiles=percentiles)

    def _resident_to_host(self, case: Case, predictor: CompiledModel) -> list[Row]:
        """Pixels on the device, answer on the host, by the host's clock."""
        images = random_pixels(case.batch, case.hw, self._device)

        def call() -> None:
            to_host([forward_resident(predictor, images)])

        timing = time_wall(call, self._device, budget_s=self._budget_s)
        return timing.rows(case.name, case.batch, percentiles=(99,))

    def _memory(self, case: Case, predictor: CompiledModel) -> list[Row]:
        """Weights, input, and all that lives at the same time during one pass."""
        with PeakMemory(self._device, self._weights) as peak:
            forward_ungraphed(predictor, random_pixels(case.batch, case.hw, self._device))
        return peak.rows(case.name)

    def _ratios(self, case: Case, rows: Sequence[Row]) -> list[Row]:
        throughput = next(row.value for row in rows if row.metric == "throughput")
        compared = {
            "throughput / roofline": self._ceiling(case),
            "throughput / torch.compile": best_compiled(self._against, case.name),
        }
        return [
            Row(case.name, metric, "ratio", throughput / other)
            for metric, other in compared.items()
            if other is not None
        ]

    def _ceiling(self, case: Case) -> float | None:
        """None where the roofline's assumptions do not hold."""
        if case.task is TaskName.CLASSIFY and case.batch < ROOFLINE_BATCH:
            return None
        if not on_cuda(self._device) or roofline.DEVICE not in torch.cuda.get_device_name():
            return None
        return roofline.images_per_second(case.task, case.variant, *case.hw)


def best_compiled(rows: Iterable[Row], case: str) -> float | None:
    """The higher throughput of our reference network through `torch.compile`, graph or not."""
    metrics = {f"{how}: throughput" for how in (COMPILED, GRAPH)}
    return max(
        (row.value for row in rows if row.case == case and row.metric in metrics), default=None
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=words, default=list(TaskName))
    parser.add_argument("--variants", type=words, default=list(VARIANTS))
    parser.add_argument("--cases", type=words, default=[], help="names; instead of the two above")
    parser.add_argument(
        "--against", type=Path, nargs="+", default=[], help="results of benchmarks.bench_rivals"
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--budget-s", type=float, default=1.0, help="of each figure")
    parser.add_argument("--limit-s", type=float, default=540.0, help="of the whole run")
    parser.add_argument("--cold-l2", action="store_true", help="batch 1 also with a cold cache")
    args = parser.parse_args()
    deadline = Deadline(args.limit_s)
    cases = select(args.tasks, args.variants, args.cases)
    against = [row for path in args.against for row in read_rows(path, device_name())]
    report = GrowingReport(args.out, "gpu", input="on the device unless the case says otherwise")
    if on_cuda(args.device):
        report.add(device_ceilings(args.device))
    bench = Bench(
        report,
        device=args.device,
        budget_s=args.budget_s,
        cold_l2=args.cold_l2,
        against=against,
    )
    bench.run(cases, deadline)


if __name__ == "__main__":
    main()
