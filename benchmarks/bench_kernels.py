"""Where the time of one forward pass goes, kernel by kernel, and which kernels waste bandwidth.

python -m benchmarks.bench_kernels --out benchmarks/results/kernels-h100.json

Profiles the compiled model's kernels launched one by one (a graph replays the same ones) and sets
the bytes that each must move against the copy bandwidth measured in the same run. The work list is
every kernel below 60 % of that, by the time it would save at 100 %; kernels whose arithmetic takes
longer than their bytes stand in it too and can be told by their names.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.compiled_model import build_compiled, forward_ungraphed, random_pixels
from benchmarks.gpu_timing import WARM_UP_CALLS, copy_bandwidth, release, synchronise
from benchmarks.kernel_traffic import family, kernel_traffic
from benchmarks.report import Row, write_report
from model.config import TaskName

GOOD_SHARE: Final = 0.6
NAME_WIDTH: Final = 72
PASSES: Final = 5


@dataclass(frozen=True, slots=True)
class KernelUse:
    """One kernel in one forward pass.

    Attributes:
        microseconds: of all its launches together.
        moved: bytes that all its launches together must read and write; None: not known.
    """

    name: str
    launches: float
    microseconds: float
    moved: int | None = None

    @property
    def bandwidth(self) -> float | None:
        """GB/s."""
        if self.moved is None or self.microseconds == 0:
            return None
        return self.moved / self.microseconds / 1e3

    def wasted(self, copy: float) -> float:
        """Microseconds beyond what the bytes take at the copy bandwidth; 0 if not known."""
        return 0.0 if self.moved is None else max(0.0, self.microseconds - self.moved / copy / 1e3)


def profile_kernels(
    function: Callable[[], Any], device: str, moved_by: Callable[[str], int | None]
) -> list[KernelUse]:
    """Kernels of one call, by falling time; the mean over several calls after a warm-up."""
    for _ in range(WARM_UP_CALLS):
        function()
    synchronise(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(PASSES):
            function()
        synchronise(device)
    return collect(profiler.key_averages(), PASSES, moved_by)


def collect(
    averages: Iterable[Any], passes: int, moved_by: Callable[[str], int | None]
) -> list[KernelUse]:
    """The profiler's sums over `passes` calls -> kernels of one call, by falling time."""
    launches: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in averages:
        if event.device_type.name == "CUDA":
            name = family(event.key)
            launches[name] += event.count
            microseconds[name] += event.self_device_time_total
    kernels = [
        KernelUse(name, launches[name] / passes, microseconds[name] / passes, moved_by(name))
        for name in launches
    ]
    return sorted(kernels, key=lambda kernel: -kernel.microseconds)


def rows_of(case: str, kernels: Sequence[KernelUse], copy: float) -> list[Row]:
    """Full kernel names; bandwidth only where the bytes are known."""
    total = sum(kernel.microseconds for kernel in kernels)
    rows = [Row(case, "all kernels: time", "us", total), Row(case, "copy", "GB/s", copy)]
    for kernel in kernels:
        figures: list[tuple[str, str, float | None]] = [
            ("launches", "launches", kernel.launches),
            ("time", "us", kernel.microseconds),
            ("share of time", "ratio", kernel.microseconds / total),
            ("bandwidth", "GB/s", kernel.bandwidth),
            ("share of copy bandwidth", "ratio", _share(kernel, copy)),
        ]
        rows += [
            Row(case, f"{kernel.name}: {metric}", unit, value)
            for metric, unit, value in figures
            if value is not None
        ]
    return rows


def work_list(kernels: Iterable[KernelUse], copy: float) -> list[KernelUse]:
    """Kernels below 60 % of the copy bandwidth, the largest possible saving first."""
    slow = [kernel for kernel in kernels if (_share(kernel, copy) or 1.0) < GOOD_SHARE]
    return sorted(slow, key=lambda kernel: -kernel.wasted(copy))


def table(kernels: Iterable[KernelUse], copy: float, total: float) -> str:
    """Markdown.

    Args:
        total: microseconds of all kernels, also of those that are not in the table.
    """
    lines = [
        "| kernel | launches | us | share of time | GB/s | of copy bandwidth | us to save |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kernel in kernels:
        share = _share(kernel, copy)
        known = ["", "", ""]
        if share is not None and kernel.bandwidth is not None:
            known = [f"{kernel.bandwidth:,.0f}", f"{share:.0%}", f"{kernel.wasted(copy):,.0f}"]
        cells = [
            f"`{kernel.name[:NAME_WIDTH]}`",
            f"{kernel.launches:g}",
            f"{kernel.microseconds:,.0f}",
            f"{kernel.microseconds / total:.1%}",
            *known,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(kernel: KernelUse, copy: float) -> float | None:
    return None if kernel.bandwidth is None else kernel.bandwidth / copy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variant", default="tiny")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--device", default="cuda:0")
    args = parser.parse_args()
    hw = (args.size, args.size)
    copy = copy_bandwidth(args.device)
    release(args.device)
    predictor = build_compiled(TaskName.CLASSIFY, args.variant, hw, args.device)
    images = random_pixels(args.batch, hw, args.device)
    traffic = kernel_traffic(args.variant, args.batch, args.size)
    with torch.inference_mode():
        kernels = profile_kernels(
            partial(forward_ungraphed, predictor, images), args.device, traffic.get
        )
    total = sum(kernel.microseconds for kernel in kernels)
    print(table(kernels, copy, total))
    print("\nWork list:\n")
    print(table(work_list(kernels, copy), copy, total))
    case = f"classify-{args.variant}-{args.size}-b{args.batch}"
    write_report(args.out, "kernels", rows_of(case, kernels, copy))


if __name__ == "__main__":
    main()
