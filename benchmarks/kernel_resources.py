"""Registers, spills and shared memory of every GPU kernel, compiled for sm_90 without a GPU.

python -m benchmarks.kernel_resources [--variant tiny] [--batch 128] [--out FILE]

Runs one forward pass of the compiled model on `meta` tensors, which have shapes and no values,
while Triton compiles instead of launching.
"""

import argparse
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from benchmarks.bench_cpu import make_spec
from benchmarks.report import Row, write_report
from model.checkpoint import build_network
from model.compiled.classifier import CompiledClassifier
from model.config import TaskName
from model.inference import optimise_for_inference

_TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class _OfflineDriver:
    """What Triton asks of a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


@contextmanager
def compiled_only(seen: Callable[[str, Any], None]) -> Iterator[None]:
    """Inside, launching a kernel compiles it and tells `seen` its name and the result."""
    launch = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        del warmup
        kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
        seen(self.__name__, kernel)
        return kernel

    driver.set_active(_OfflineDriver())
    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = launch


def code_usage(code: bytes) -> dict[str, int]:
    """What machine code says of itself: REG, STACK and LOCAL of a thread, and more."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        listing = subprocess.run(  # noqa: S603 - Triton's own tool on our file
            [str(_TOOL), "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    fields = (part.split(":") for part in listing.split() if part.count(":") == 1)
    return {name: int(value) for name, value in fields if value.isdigit()}


def resource_usage(kernel: Any) -> dict[str, int]:
    """Registers per thread, stack and spill bytes, shared memory of one compiled kernel."""
    found = code_usage(kernel.asm["cubin"])
    return {
        "registers": found.get("REG", 0),
        "stack": found.get("STACK", 0),
        "local": found.get("LOCAL", 0),
        "shared": int(kernel.metadata.shared),
        "warps": int(kernel.metadata.num_warps),
    }


def occupancy(usage: dict[str, int]) -> int:
    """Warps per multiprocessor that registers and shared memory allow, of 64."""
    warps = usage["warps"]
    by_registers = 65536 // (max(usage["registers"], 1) * 32 * warps)
    by_memory = 227 * 1024 // (usage["shared"] + 1024)
    return min(by_registers, by_memory, 64 // warps) * warps


def all_usage(variant: str, batch: int, side: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Name and resources of every kernel of a classifier, each way of compiling it once."""
    spec = make_spec(TaskName.CLASSIFY, variant)
    network = optimise_for_inference(build_network(spec))
    model = CompiledClassifier(network, spec.input, dtype=torch.float16, device="meta")
    pictures = torch.empty((batch, side, side, 4), dtype=torch.uint8, device="meta")
    kernels: dict[tuple[str, str], Any] = {}

    def remember(name: str, kernel: Any) -> None:
        kernels[name, kernel.hash] = kernel

    with torch.inference_mode(), compiled_only(remember):
        model(pictures)
    for (name, _hash), kernel in kernels.items():
        usage = resource_usage(kernel)
        yield name, {**usage, "resident": occupancy(usage)}


UNITS: Final = {"stack": "B", "local": "B", "shared": "B", "resident": "warps of 64"}


def rows_of(kernels: Iterable[tuple[str, dict[str, int]]]) -> Iterator[Row]:
    """One row a figure; a kernel compiled several ways is numbered."""
    seen: Counter[str] = Counter()
    for name, usage in kernels:
        seen[name] += 1
        for metric, value in usage.items():
            yield Row(f"{name} {seen[name]}", metric, UNITS.get(metric, metric), value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="tiny")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--out", type=Path, help="result file to write")
    args = parser.parse_args()
    kernels = list(all_usage(args.variant, args.batch, args.side))
    for name, usage in kernels:
        print(
            f"{name:28} {usage['registers']:4} registers {usage['stack']:5} B stack "
            f"{usage['shared']:7} B shared {usage['warps']:3} warps, "
            f"{usage['resident']:3} of 64 resident"
        )
    if args.out:
        target = "compiled for sm_90, nothing was run"
        write_report(args.out, "kernel-resources", rows_of(kernels), target)


if __name__ == "__main__":
    main()
