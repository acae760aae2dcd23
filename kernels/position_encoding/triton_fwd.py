"""Position encoding and its residual in one pass over the map."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import as_tokens, next_power_of_2, tiling
from kernels.triton_math import depthwise_3x3, tile_tokens


@triton.jit(do_not_specialize=["T", "H", "W"])
def _position_encoding_kernel(
    x_ptr,  # (T, C), tokens `stride` apart
    weight_ptr,  # (9, C) float32
    bias_ptr,  # (C,) float32
    out_ptr,  # (T, C)
    T,
    H,
    W,
    C,
    stride,
    BLOCK_T: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first, local, row, col, valid = tile_tokens(tl.program_id(0), T, H, W, BLOCK_T, TILE_W)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    encoded, x = depthwise_3x3(
        x_ptr + first * stride,
        weight_ptr,
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
    out = x + encoded + tl.load(bias_ptr + channel, mask=inside, other=0.0)[None, :]
    tl.store(
        out_ptr + first * C + local[:, None] * C + channel[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=valid[:, None] & inside[None, :],
    )


def position_encoding_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Contract of `position_encoding_ref`.

    Args:
        weight: (9, C) float32, row-major taps.
        bias: (C,) float32.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    T = B * H * W
    out = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    block_t, block_c, warps = _tiles(T, C)
    tile_w, num_tiles = tiling(B, H, W, block_t)
    _position_encoding_kernel[(num_tiles, triton.cdiv(C, block_c))](
        x,
        weight,
        bias,
        out,
        T,
        H,
        W,
        C,
        stride,
        BLOCK_T=block_t,
        TILE_W=tile_w,
        BLOCK_C=block_c,
        num_warps=warps,
    )
    return out


def _tiles(T: int, C: int) -> tuple[int, int, int]:
    """Tokens and channels of a tile, and warps."""
    block_c = min(128, next_power_of_2(C))
    return max(1, min(next_power_of_2(T), 1024 // block_c)), block_c, 4
