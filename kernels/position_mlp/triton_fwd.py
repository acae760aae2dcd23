"""Position encoding, LayerNorm and the whole MLP in one pass.

The hidden layer, four times as wide as the map, never leaves the chip: a program owns some tokens
with all their channels and takes the hidden units in blocks, first product, GELU, second product.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import as_tokens, is_precise, next_power_of_2, tiling
from kernels.triton_math import (
    depthwise_3x3,
    gelu,
    multiply_add,
    normalise_rows,
    tile_tokens,
)


@triton.jit(do_not_specialize=["T", "H", "W"])
def _position_mlp_kernel(
    x_ptr,  # (T, C), tokens `stride` apart
    position_weight_ptr,  # (9, C) float32
    position_bias_ptr,  # (C,) float32
    weight1_ptr,  # (M, C)
    bias1_ptr,  # (M,) float32
    weight2_ptr,  # (C, M)
    bias2_ptr,  # (C,) float32
    out_ptr,  # (T, C)
    T,
    H,
    W,
    C,
    M,
    stride,
    eps,
    PRECISE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    first, local, row, col, valid = tile_tokens(tl.program_id(0), T, H, W, BLOCK_T, TILE_W)
    channel = tl.arange(0, BLOCK_C)
    inside = channel < C
    await_predecessor(OVERLAP)
    x1, x = depthwise_3x3(
        x_ptr + first * stride,
        position_weight_ptr,
        local,
        row,
        col,
        channel,
        valid,
        inside,
        H,
        W,
        C,
        stride,
    )
    x1 += x + tl.load(position_bias_ptr + channel, mask=inside, other=0.0)[None, :]
    narrow = x1.to(out_ptr.dtype.element_ty)
    normed = normalise_rows(narrow.to(tl.float32), inside, C, eps).to(weight1_ptr.dtype.element_ty)
    acc = tl.zeros([BLOCK_T, BLOCK_C], dtype=tl.float32)
    for begin in range(0, M, BLOCK_M):
        unit = begin + tl.arange(0, BLOCK_M)
        exists = unit < M
        weight1 = tl.load(
            weight1_ptr + unit[None, :] * C + channel[:, None],
            mask=exists[None, :] & inside[:, None],
            other=0.0,
        )
        hidden = tl.dot(normed, weight1, input_precision="ieee")
        hidden += tl.load(bias1_ptr + unit, mask=exists, other=0.0)[None, :]
        hidden = gelu(hidden, PRECISE).to(weight2_ptr.dtype.element_ty)
        weight2 = tl.load(
            weight2_ptr + channel[None, :] * M + unit[:, None],
            mask=exists[:, None] & inside[None, :],
            other=0.0,
        )
        acc = multiply_add(hidden, weight2, acc, PRECISE)
    acc += tl.load(bias2_ptr + channel, mask=inside, other=0.0)[None, :] + narrow.to(tl.float32)
    tl.store(
        out_ptr + first * C + local[:, None] * C + channel[None, :],
        acc.to(out_ptr.dtype.element_ty),
        mask=valid[:, None] & inside[None, :],
    )


def position_mlp_triton(
    x: Tensor,
    position_weight: Tensor,
    position_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    norm_eps: float,
) -> Tensor:
    """Contract of `position_mlp_ref`.

    Args:
        position_weight: (9, C) float32, row-major taps.
        position_bias, bias2: (C,) float32.
        weight1: (M, C), dtype of x.
        bias1: (M,) float32.
        weight2: (C, M), dtype of x.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    T, M = B * H * W, weight1.shape[0]
    out = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    block_t, block_m, warps, stages = _tiles(T, C, M, x.dtype)
    tile_w, num_tiles = tiling(B, H, W, block_t)
    _position_mlp_kernel[(num_tiles,)](
        x,
        position_weight,
        position_bias,
        weight1,
        bias1,
        weight2,
        bias2,
        out,
        T,
        H,
        W,
        C,
        M,
        stride,
        norm_eps,
        PRECISE=is_precise(x.dtype),
        BLOCK_T=block_t,
        TILE_W=tile_w,
        BLOCK_C=max(16, next_power_of_2(C)),
        BLOCK_M=block_m,
        num_warps=warps,
        num_stages=stages,
        **overlapping(),
    )
    return out


def _tiles(T: int, C: int, M: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Tokens and hidden units of a tile, warps, pipeline stages."""
    if dtype == torch.float32:
        return 16, 16, 4, 1
    if T <= 132 * 64:
        return max(16, min(64, next_power_of_2(triton.cdiv(T, 132)))), 64, 4, 2
    return 64, 64, 4, 3
