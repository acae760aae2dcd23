"""Depthwise convolution, SiLU and the small projection in one pass.

A program owns some tokens and walks over blocks of channels; the projection's sums stay in
registers. With few tokens the channels are shared out over programs as well, and the projection
comes out as partial sums, which its two readers add up: no atomics, so the order is fixed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import as_tokens, is_precise, next_power_of_2, tiling
from kernels.triton_math import depthwise_3x3, multiply_add, silu, tile_tokens


@triton.jit(do_not_specialize=["T", "H", "W"])
def _conv_projection_kernel(
    x_ptr,  # (T, D), tokens `stride` apart
    conv_weight_ptr,  # (9, D) float32
    conv_bias_ptr,  # (D,) float32
    weight_ptr,  # (P, D)
    u_ptr,  # (T, D)
    p_ptr,  # (splits, T, P) float32
    T,
    H,
    W,
    D,
    P,
    stride,
    PRECISE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCKS_D: tl.constexpr,
):
    first, local, row, col, valid = tile_tokens(tl.program_id(0), T, H, W, BLOCK_T, TILE_W)
    x_ptr += first * stride
    u_ptr += first * D
    output = tl.arange(0, BLOCK_P)
    p = tl.zeros([BLOCK_T, BLOCK_P], dtype=tl.float32)
    for block in range(BLOCKS_D):
        channel = (tl.program_id(1) * BLOCKS_D + block) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = channel < D
        conv, _ = depthwise_3x3(
            x_ptr,
            conv_weight_ptr,
            local,
            row,
            col,
            channel,
            valid,
            inside,
            H,
            W,
            D,
            stride,
        )
        conv += tl.load(conv_bias_ptr + channel, mask=inside, other=0.0)[None, :]
        u = silu(conv, PRECISE).to(u_ptr.dtype.element_ty)
        tl.store(
            u_ptr + local[:, None] * D + channel[None, :],
            u,
            mask=valid[:, None] & inside[None, :],
        )
        weight = tl.load(
            weight_ptr + output[None, :] * D + channel[:, None],
            mask=(output < P)[None, :] & inside[:, None],
            other=0.0,
        )
        p = multiply_add(u, weight, p, PRECISE)
    p_ptr += (tl.program_id(1) * tl.cast(T, tl.int64) + first) * P
    tl.store(
        p_ptr + local[:, None] * P + output[None, :],
        p,
        mask=valid[:, None] & (output < P)[None, :],
    )


def conv_projection_triton(
    x: Tensor, conv_weight: Tensor, conv_bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Contract of `conv_projection_ref`, with the projection as partial sums.

    Args:
        conv_weight: (9, D) float32, row-major taps.
        conv_bias: (D,) float32.
        weight: (R + 2, D), dtype of x.

    Returns:
        u (B, H, W, D) and p (splits, B, H, W, R + 2) float32; the projection is p.sum(0).
    """
    x, stride = as_tokens(x)
    B, H, W, D = x.shape
    T, P = B * H * W, weight.shape[0]
    block_t, block_d, splits, warps = _tiles(T, D, x.dtype)
    tile_w, num_tiles = tiling(B, H, W, block_t)
    u = torch.empty((B, H, W, D), dtype=x.dtype, device=x.device)
    p = torch.empty((splits, B, H, W, P), dtype=torch.float32, device=x.device)
    _conv_projection_kernel[(num_tiles, splits)](
        x,
        conv_weight,
        conv_bias,
        weight,
        u,
        p,
        T,
        H,
        W,
        D,
        P,
        stride,
        PRECISE=is_precise(x.dtype),
        BLOCK_T=block_t,
        TILE_W=tile_w,
        BLOCK_D=block_d,
        BLOCK_P=max(16, next_power_of_2(P)),
        BLOCKS_D=triton.cdiv(triton.cdiv(D, block_d), splits),
        num_warps=warps,
        num_stages=1,
    )
    return u, p


def _tiles(T: int, D: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Tokens and channels of a tile, shares of the channels, warps."""
    block_d = max(16, min(32, next_power_of_2(D)))
    block_t = 64 if dtype != torch.float32 else 16
    blocks_d = triton.cdiv(D, block_d)
    if T < 132 * block_t:
        block_t = max(16, min(block_t, next_power_of_2(T) // 64))
        programs = triton.cdiv(T, block_t)
        wanted = max(1, 132 // programs)
        splits = next(s for s in range(min(wanted, blocks_d), 0, -1) if blocks_d % s == 0)
        return block_t, block_d, splits, 4
    return block_t, block_d, 1, 4
