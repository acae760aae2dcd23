"""Position encoding, LayerNorm, input projection and the gate's SiLU in one pass.

A program owns some tokens with all their channels: the encoded map goes out once, its norm stays in
registers and is multiplied with one block of the weight's rows after the other.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import as_tokens, is_precise, next_power_of_2, tiling
from kernels.triton_math import depthwise_3x3, normalise_rows, silu, tile_tokens


@triton.jit(do_not_specialize=["T", "H", "W"])
def _position_linear_kernel(
    x_ptr,  # (T, C)
    position_weight_ptr,  # (9, C) float32
    position_bias_ptr,  # (C,) float32
    weight_ptr,  # (N, C)
    bias_ptr,  # (N,) float32
    x1_ptr,  # (T, C)
    out_ptr,  # (T, N)
    T,
    H,
    W,
    C,
    N,
    stride,
    eps,
    PRECISE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKS_N: tl.constexpr,
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
    narrow = x1.to(x1_ptr.dtype.element_ty)
    if tl.program_id(1) == 0:
        tl.store(
            x1_ptr + first * C + local[:, None] * C + channel[None, :],
            narrow,
            mask=valid[:, None] & inside[None, :],
        )
    normed = normalise_rows(narrow.to(tl.float32), inside, C, eps).to(weight_ptr.dtype.element_ty)
    out_ptr += first * N
    for block in range(BLOCKS_N):
        start_n = (tl.program_id(1) * BLOCKS_N + block) * BLOCK_N
        column = start_n + tl.arange(0, BLOCK_N)
        exists = column < N
        weight = tl.load(
            weight_ptr + column[None, :] * C + channel[:, None],
            mask=exists[None, :] & inside[:, None],
            other=0.0,
        )
        y = tl.dot(normed, weight, input_precision="ieee")
        y += tl.load(bias_ptr + column, mask=exists, other=0.0)[None, :]
        # a block lies wholly in one half
        if start_n >= N // 2:
            y = silu(y, PRECISE)
        tl.store(
            out_ptr + local[:, None] * N + column[None, :],
            y.to(out_ptr.dtype.element_ty),
            mask=valid[:, None] & exists[None, :],
        )


def position_linear_triton(
    x: Tensor,
    position_weight: Tensor,
    position_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_eps: float,
) -> tuple[Tensor, Tensor]:
    """Contract of `position_linear_ref`.

    Args:
        position_weight: (9, C) float32, row-major taps.
        position_bias: (C,) float32.
        weight: (N, C), dtype of x; N / 2 a multiple of 16.
        bias: (N,) float32.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    T, N = B * H * W, weight.shape[0]
    x1 = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    out = torch.empty((B, H, W, N), dtype=x.dtype, device=x.device)
    block_t, block_n, blocks, warps = _tiles(T, C, N, x.dtype)
    tile_w, num_tiles = tiling(B, H, W, block_t)
    _position_linear_kernel[(num_tiles, triton.cdiv(N, block_n * blocks))](
        x,
        position_weight,
        position_bias,
        weight,
        bias,
        x1,
        out,
        T,
        H,
        W,
        C,
        N,
        stride,
        norm_eps,
        PRECISE=is_precise(x.dtype),
        BLOCK_T=block_t,
        TILE_W=tile_w,
        BLOCK_C=max(16, next_power_of_2(C)),
        BLOCK_N=block_n,
        BLOCKS_N=blocks,
        num_warps=warps,
        num_stages=2,
        **overlapping(),
    )
    return x1, out


def _tiles(T: int, C: int, N: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Tokens and columns of a tile, blocks of columns per program, warps."""
    half = N // 2
    block_n = next(n for n in (128, 64, 32, 16) if half % n == 0)
    if dtype == torch.float32:
        return 16, min(32, block_n), triton.cdiv(N, min(32, block_n)), 4
    if T <= 132 * 64:
        # too few tokens to fill the chip: the columns are shared out too
        return min(64, max(16, next_power_of_2(triton.cdiv(T, 64)))), min(64, block_n), 1, 4
    block_n = min(block_n, 64) if C <= 64 else block_n
    return 64, block_n, N // block_n, 4
