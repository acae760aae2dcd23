"""The two operators of Spatial-Mamba, registered with PyTorch, and the sets to build models with.

`REFERENCE` is the truth, plain functions written like the equations. `FUSED` is what is served:
`torch.library` operators whose implementation PyTorch's dispatcher picks by device, traceable by
`torch.compile(fullgraph=True)` and by exporters through their fake implementations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from kernels.selective_scan.chunked import selective_scan_backward, selective_scan_chunked
from kernels.selective_scan.reference import selective_scan_ref
from kernels.state_fusion.convolution import state_fusion_backward, state_fusion_conv
from kernels.state_fusion.reference import DILATIONS, state_fusion_ref


@dataclass(frozen=True, slots=True)
class KernelOps:
    """One complete set of operators.

    Attributes:
        selective_scan: contract of `selective_scan_ref`.
        state_fusion: contract of `state_fusion_ref`.
    """

    selective_scan: Callable[..., Tensor]
    state_fusion: Callable[..., Tensor]


# the functions below are what modules hold: unlike registered ops, functions can be deep-copied
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Device-dispatched selective scan; see `selective_scan_ref` for the contract.

    Raises:
        ValueError: shapes do not fit together; the message names found and expected shapes.
    """
    states: Tensor = _selective_scan_op(u, delta, A, B, delta_bias, delta_softplus)
    return states


def state_fusion(state: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Device-dispatched state fusion; see `state_fusion_ref` for the contract.

    Raises:
        ValueError: shapes do not fit together; the message names found and expected shapes.
    """
    fused: Tensor = _state_fusion_op(state, weight, scale)
    return fused


@torch.library.custom_op("spatial_mamba::selective_scan", mutates_args=())
def _selective_scan_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    _check_scan(u, delta, A, B, delta_bias)
    return selective_scan_chunked(u, delta, A, B, delta_bias, delta_softplus)


@_selective_scan_op.register_kernel("cuda")
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    from kernels.selective_scan import triton_scan

    _check_scan(u, delta, A, B, delta_bias)
    fused = triton_scan.supports(u, A)
    scan = triton_scan.selective_scan_triton if fused else selective_scan_chunked
    return scan(u, delta, A, B, delta_bias, delta_softplus)


@_selective_scan_op.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    return u.new_empty((*u.shape, A.shape[1]))


def _scan_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    u, delta, A, B, delta_bias, delta_softplus = inputs
    ctx.delta_softplus = delta_softplus
    ctx.save_for_backward(output, u, delta, A, B, delta_bias)


def _scan_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    states, u, delta, A, B, delta_bias = ctx.saved_tensors
    backward = selective_scan_backward
    if u.is_cuda:
        from kernels.selective_scan import triton_scan

        if triton_scan.supports(u, A):
            backward = triton_scan.selective_scan_backward_triton
    return *backward(grad, states, u, delta, A, B, delta_bias, ctx.delta_softplus), None


_selective_scan_op.register_autograd(_scan_backward, setup_context=_scan_setup)


@torch.library.custom_op("spatial_mamba::state_fusion", mutates_args=())
def _state_fusion_op(state: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    _check_fusion(state, weight, scale)
    return state_fusion_conv(state, weight, scale)


@_state_fusion_op.register_fake
def _(state: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return state.new_empty(state.shape)


def _fusion_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _fusion_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return state_fusion_backward(grad, *ctx.saved_tensors)


_state_fusion_op.register_autograd(_fusion_backward, setup_context=_fusion_setup)


def _check_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None) -> None:
    if u.ndim != 3 or u.shape[1] == 0:
        raise ValueError(f"u must be (B, L, D) with L >= 1, got shape {tuple(u.shape)}")
    batch, length, dim = u.shape
    if delta.shape != u.shape:
        raise ValueError(f"delta must be {tuple(u.shape)} like u, got {tuple(delta.shape)}")
    if A.ndim != 2 or A.shape[0] != dim or A.shape[1] < 1:
        raise ValueError(f"A must be ({dim}, N) with N >= 1, got {tuple(A.shape)}")
    if B.shape != (batch, length, A.shape[1]):
        raise ValueError(f"B must be {(batch, length, A.shape[1])}, got {tuple(B.shape)}")
    if delta_bias is not None and delta_bias.shape != (dim,):
        raise ValueError(f"delta_bias must be ({dim},), got {tuple(delta_bias.shape)}")


def _check_fusion(state: Tensor, weight: Tensor, scale: Tensor) -> None:
    if state.ndim != 4 or 0 in state.shape:
        raise ValueError(f"state must be (B, H, W, C), none empty, got {tuple(state.shape)}")
    expected = (len(DILATIONS), state.shape[3], 3, 3)
    if weight.shape != expected:
        raise ValueError(f"weight must be {expected}, got {tuple(weight.shape)}")
    if scale.shape != (len(DILATIONS),):
        raise ValueError(f"scale must be ({len(DILATIONS)},), got {tuple(scale.shape)}")


REFERENCE: Final = KernelOps(selective_scan=selective_scan_ref, state_fusion=state_fusion_ref)
FUSED: Final = KernelOps(selective_scan=selective_scan, state_fusion=state_fusion)
