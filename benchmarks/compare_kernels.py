"""The CUDA C++ kernels beside the Triton kernels that they replace, and the library's product.

python -m benchmarks.compare_kernels --out benchmarks/results/compare-kernels-h100.json

At the shapes of the stages of tiny and base. Every time is that of a graph of ten launches, so that
neither the way to the launch nor an empty cache is in it. The library multiplies only: norm, bias
and activation are left out; `sum` is the MLP's second product, added to its residual, where the
library leaves out the bias.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import triton

from benchmarks.kernel_trials import EPS, exact, half
from benchmarks.report import Row, write_report
from kernels.downsample.triton_fwd import depthwise_stride2_triton
from kernels.expand_downsample import cuda_fwd as downsample_cuda
from kernels.linear.cuda_fwd import wide_product_cuda
from kernels.linear.forward import linear
from kernels.linear.triton_fwd import linear_triton
from kernels.selective_scan import cuda_fwd as scan_cuda
from kernels.selective_scan.triton_fwd import low_rank_scan_triton
from kernels.state_fusion.cuda_fwd import gated_fusion_cuda, plan_for
from kernels.state_fusion.triton_fwd import gated_fusion_triton

LAUNCHES: Final = 10
# side and channels
STAGES: Final = tuple((56 >> i, dim << i) for dim in (64, 96) for i in range(4))


def microseconds(function: Callable[[], Any]) -> float:
    """Of one launch, the median."""
    function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            function()
    timed = triton.testing.do_bench(graph.replay, warmup=10, rep=60, return_mode="median")
    return float(1e3 * timed / LAUNCHES)


def fusion(B: int, side: int, C: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    E, R = 2 * C, -(-C // 16)
    state, u, gate = half(B, side, side, E), half(B, side, side, E), half(B, side, side, 2 * E)
    arguments = (state, u, half(B, side, side, R + 2), gate[..., E:], exact(25, E))
    weights = exact(E), exact(E), exact(E), EPS
    yield "Triton", lambda: gated_fusion_triton(*arguments, *weights)
    if (plan := plan_for(state)) is not None:
        yield "CUDA", lambda: gated_fusion_cuda(*arguments, *weights, plan)


def product(B: int, side: int, C: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The MLP's first product, with its norm, an early bias and GELU."""
    x, weight, bias = half(B * side * side, C), half(4 * C, C), exact(4 * C)
    norm = {"colsum": exact(4 * C), "statistics": exact(2, len(x)), "shift": exact(4 * C)}
    norm["activation"] = "gelu"
    out = x.new_empty((len(x), 4 * C))
    yield "Triton", lambda: linear_triton(x, weight, bias, **norm)
    if C <= 768:
        yield "CUDA", lambda: wide_product_cuda(x, weight, bias, out, **norm)
    yield "library, product alone", lambda: torch.mm(x, weight.t(), out=out)


def second_product(B: int, side: int, C: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    hidden, weight, bias = half(B * side * side, 4 * C), half(C, 4 * C), exact(C)
    total = half(len(hidden), C)
    yield "Triton", lambda: linear_triton(hidden, weight, bias, residual=total)
    # half of the total: the whole would grow without limit
    yield "library, in place", lambda: total.addmm_(hidden, weight.t(), beta=0.5)


def down_sampling(B: int, side: int, C: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Its wide half, whose map of 8 C channels one launch keeps on the chip."""
    N = 8 * C
    x, weight, bias = half(B, side, side, C), half(N, C), exact(N)
    taps, taps_bias = exact(9, N), exact(N)

    def apart() -> Any:
        wide = linear(x, weight, bias, activation="relu")
        return depthwise_stride2_triton(wide, taps, taps_bias)

    yield "two launches", apart
    if (how := downsample_cuda.plan_for(x, N)) is not None:
        arguments = (x, weight, bias, taps, taps_bias, how)
        yield "CUDA, one launch", lambda: downsample_cuda.expand_downsample_cuda(*arguments)


def scan(B: int, side: int, C: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    D, R = 2 * C, -(-C // 16)
    u, projected, weight = half(B, side, side, D), half(B, side, side, R + 2), half(R, D)
    arguments = (u, projected, weight, exact(D), -exact(D).abs())
    yield "Triton", lambda: low_rank_scan_triton(*arguments)
    if (how := scan_cuda.plan_for(u, projected, weight)) is not None:
        yield "CUDA", lambda: scan_cuda.low_rank_scan_cuda(*arguments, how)


CASES: Final = (
    ("fusion", fusion),
    ("product", product),
    ("sum", second_product),
    ("down-sampling", down_sampling),
    ("scan", scan),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", default=",".join(name for name, _ in CASES))
    args = parser.parse_args()
    rows = []
    for side, C in STAGES:
        for name, ways in CASES:
            if name not in args.only.split(","):
                continue
            case = f"{name}-{args.batch}x{side}x{side}-C{C}"
            for how, function in ways(args.batch, side, C):
                rows.append(Row(case, how, "us", microseconds(function)))
                print(f"{case:28} {how:24} {rows[-1].value:9.1f} us", flush=True)
            torch.cuda.empty_cache()
    write_report(args.out, "compare-kernels", rows)


if __name__ == "__main__":
    main()
