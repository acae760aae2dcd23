"""LayerNorm, gate, output projection and residual in one pass.

A program reads its rows twice: once for their statistics, then block by block to normalise, gate
and multiply them. The second time they come from the cache; the gated map is never written.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import as_tokens, is_precise, next_power_of_2
from kernels.triton_math import multiply_add


@triton.jit
def _row_statistics(y_ptr, local, valid, E, eps, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr):
    """Mean and 1 / sqrt(variance + eps) of each row, sums taken around the row's first value."""
    origin = tl.load(y_ptr + local * E, mask=valid, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    squares = tl.zeros([BLOCK_M], dtype=tl.float32)
    for start in range(0, E, BLOCK_E):
        k = start + tl.arange(0, BLOCK_E)
        inside = valid[:, None] & (k < E)[None, :]
        y = tl.load(y_ptr + local[:, None] * E + k[None, :], mask=inside, other=0.0).to(tl.float32)
        y = tl.where(inside, y - origin[:, None], 0.0)
        total += tl.sum(y, axis=1)
        squares += tl.sum(y * y, axis=1)
    shift = total / E
    variance = tl.maximum(squares / E - shift * shift, 0.0)
    return origin + shift, tl.rsqrt(variance + eps)


@triton.jit(do_not_specialize=["M"])
def _gated_linear_kernel(
    y_ptr,  # (M, E)
    gate_ptr,  # (M, E), rows `gate_stride` apart
    norm_weight_ptr,  # (E,) float32
    norm_bias_ptr,  # (E,) float32
    weight_ptr,  # (N, E)
    residual_ptr,  # (M, N)
    out_ptr,  # (M, N)
    M,
    N,
    E,
    gate_stride,
    eps,
    PRECISE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    # neighbouring programs share rows, which stay in the cache
    num_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    start_m, column = pid // num_n * BLOCK_M, pid % num_n * BLOCK_N + tl.arange(0, BLOCK_N)
    local, exists = tl.arange(0, BLOCK_M), column < N
    valid = start_m + local < M
    first = start_m.to(tl.int64)
    y_ptr += first * E
    gate_ptr += first * gate_stride
    mean, scale = _row_statistics(y_ptr, local, valid, E, eps, BLOCK_M, BLOCK_E)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, E, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = k < E
        mask = valid[:, None] & inside[None, :]
        y = tl.load(y_ptr + local[:, None] * E + k[None, :], mask=mask, other=0.0)
        gate = tl.load(gate_ptr + local[:, None] * gate_stride + k[None, :], mask=mask, other=0.0)
        gain = tl.load(norm_weight_ptr + k, mask=inside, other=0.0)[None, :]
        bias = tl.load(norm_bias_ptr + k, mask=inside, other=0.0)[None, :]
        normed = (y.to(tl.float32) - mean[:, None]) * scale[:, None] * gain + bias
        gated = (normed * gate.to(tl.float32)).to(weight_ptr.dtype.element_ty)
        weight = tl.load(
            weight_ptr + column[None, :] * E + k[:, None],
            mask=exists[None, :] & inside[:, None],
            other=0.0,
        )
        acc = multiply_add(gated, weight, acc, PRECISE)
    offset = first * N + local[:, None] * N + column[None, :]
    wanted = valid[:, None] & exists[None, :]
    acc += tl.load(residual_ptr + offset, mask=wanted, other=0.0).to(tl.float32)
    tl.store(out_ptr + offset, acc.to(out_ptr.dtype.element_ty), mask=wanted)


def gated_linear_triton(
    y: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    residual: Tensor,
    norm_eps: float,
) -> Tensor:
    """Contract of `gated_linear_ref`.

    Args:
        gate: a slice of the channels of a wider map is fine.
        norm_weight, norm_bias: (E,) float32.
        weight: (C, E), dtype of y.
    """
    y, residual = y.contiguous(), residual.contiguous()
    gate, gate_stride = as_tokens(gate)
    E, N = y.shape[-1], weight.shape[0]
    M = y.numel() // E
    out = torch.empty((*y.shape[:-1], N), dtype=y.dtype, device=y.device)
    block_m, block_n, block_k, warps, stages = _tiles(M, N, y.dtype)
    _gated_linear_kernel[(triton.cdiv(M, block_m) * triton.cdiv(N, block_n),)](
        y,
        gate,
        norm_weight,
        norm_bias,
        weight,
        residual,
        out,
        M,
        N,
        E,
        gate_stride,
        norm_eps,
        PRECISE=is_precise(y.dtype),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        # few, wide steps: nothing hides their latency
        BLOCK_E=min(256 if block_m <= 64 else 128, max(16, next_power_of_2(E))),
        num_warps=warps,
        num_stages=stages,
    )
    return out


def _tiles(M: int, N: int, dtype: torch.dtype) -> tuple[int, int, int, int, int]:
    """Rows, columns and depth of a tile, warps, pipeline stages."""
    if dtype == torch.float32:
        return 32, 32, 32, 4, 2
    block_n = max(16, next_power_of_2(N))
    if M <= 132 * 16:
        return 16, min(64, block_n), 64, 4, 3
    return 64, min(256, block_n), 64, 4 if block_n <= 128 else 8, 3
