"""The CUDA C++ kernels as cases of the matrix; they run on a GPU only, in half precision."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from kernels import nvrtc
from kernels.device import Device, describe_device
from kernels.expand_downsample import cuda_fwd as downsample_cuda
from kernels.expand_downsample.reference import expand_downsample_ref
from kernels.linear import cuda_fwd as linear_cuda
from kernels.linear.reference import Activation, linear_ref
from kernels.selective_scan import cuda_fwd as scan_cuda
from kernels.state_fusion import cuda_fwd as fusion_cuda
from kernels.state_fusion.gated import gated_fusion_ref, merge_taps
from tests.kernels.error_ratios import Case, Outputs
from tests.kernels.inference_ops import (
    EPS,
    Draw,
    Shape,
    low_rank_scan,
    shift_of,
    statistics,
    taps,
    widen,
)

# multiples of 128, what the kernel needs, whatever the number of channels
_COLUMNS: Final = 384


def gated_fusion_cuda(d: Draw) -> Case:
    E = 2 * d.C
    state, u, p, gate = d.map(E), d.map(E), d.map(3), d.map(2 * E)[..., E:]
    weight, D, nw, nb = d.exact(3, E, 3, 3, scale=0.3), d.exact(E), d.exact(E), d.exact(E)
    plan = fusion_cuda.plan_for(state)
    assert plan is not None

    def kernel() -> Outputs:
        arguments = (state, u, p, gate, merge_taps(weight), D, nw, nb, EPS, plan)
        return [fusion_cuda.gated_fusion_cuda(*arguments)]

    def reference(wide: bool) -> Outputs:
        return [gated_fusion_ref(*widen(wide, state, u, p[..., 2:], gate, weight, D, nw, nb), EPS)]

    return Case(kernel, reference)


def _product(d: Draw, activation: Activation, offset: Tensor | None = None) -> Case:
    x, w = d.map(), d.half(_COLUMNS, d.C, scale=d.C**-0.5)
    b = d.exact(_COLUMNS)

    def kernel() -> Outputs:
        out = torch.empty((*x.shape[:-1], _COLUMNS), dtype=x.dtype, device=x.device)
        linear_cuda.wide_product_cuda(
            x.flatten(0, 2),
            w,
            b,
            out.flatten(0, 2),
            colsum=w.float().sum(1),
            statistics=statistics(x.flatten(0, 2), offset),
            shift=None if offset is None else shift_of(w, offset),
            activation=activation,
        )
        return [out]

    def reference(wide: bool) -> Outputs:
        x_, w_, b_, offset_ = widen(wide, x, w, b, offset)
        return [linear_ref(x_, w_, b_, norm_eps=EPS, offset=offset_, activation=activation)]

    return Case(kernel, reference)


def wide_product_gelu(d: Draw) -> Case:
    return _product(d, "gelu")


def wide_product_gelu_offset(d: Draw) -> Case:
    return _product(d, "gelu", d.exact(d.C))


def wide_product_gate(d: Draw) -> Case:
    return _product(d, "silu_second_half")


def expand_downsample_cuda(d: Draw) -> Case:
    N = 8 * d.C
    x, w, b = d.map(), d.half(N, d.C, scale=d.C**-0.5), d.exact(N)
    t, tb = d.exact(N, 1, 3, 3, scale=0.3), d.exact(N)
    how = downsample_cuda.plan_for(x, N)
    assert how is not None
    return Case(
        lambda: [downsample_cuda.expand_downsample_cuda(x, w, b, taps(t), tb, how)],
        lambda wide: [expand_downsample_ref(*widen(wide, x, w, b, t, tb))],
    )


def _device() -> Device:
    return describe_device(torch.device("cuda", torch.cuda.current_device()))


def low_rank_scan_cuda(d: Draw) -> Case:
    def kernel(u: Tensor, p: Tensor, w: Tensor, b: Tensor, A: Tensor) -> Tensor:
        # not `plan_for`, which leaves small batches to Triton
        how = scan_cuda.plan(tuple(u.shape), w.shape[0], describe_device(u.device))
        assert how is not None
        return scan_cuda.low_rank_scan_cuda(u, p, w, b, A, how)

    return low_rank_scan(d, kernel)


CUDA_OPS: dict[str, Callable[[Draw], Case]] = {
    function.__name__: function
    for function in (
        expand_downsample_cuda,
        gated_fusion_cuda,
        low_rank_scan_cuda,
        wide_product_gelu,
        wide_product_gelu_offset,
        wide_product_gate,
    )
}


def serves(op: str, shape: Shape, dtype: torch.dtype) -> bool:
    """Whether this GPU's kernel takes such maps; elsewhere Triton's runs."""
    if dtype == torch.float32 or not (torch.cuda.is_available() and nvrtc.is_available()):
        return False
    device = _device()
    B, H, W, C = shape
    if op == "gated_fusion_cuda":
        return (
            device.capability >= (8, 0) and fusion_cuda.plan((B, H, W, 2 * C), device) is not None
        )
    if op == "expand_downsample_cuda":
        return downsample_cuda.plan(shape, 8 * C, device) is not None
    if op == "low_rank_scan_cuda":
        return scan_cuda.plan((B, H, W, 2 * C), -(-C // 16), device) is not None
    fits = linear_cuda.stages_for(C, device.shared_bytes) >= 2
    return device.capability == (9, 0) and C % 8 == 0 and fits
