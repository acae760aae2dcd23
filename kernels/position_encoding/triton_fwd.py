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
    statistics_ptr,  # (2, T) float32; written with STATISTICS
    T,
    H,
    W,
    C,
    stride,
    eps,
    STATISTICS: tl.constexpr,
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
    narrow = out.to(out_ptr.dtype.element_ty)
    tl.store(
        out_ptr + first * C + local[:, None] * C + channel[None, :],
        narrow,
        mask=valid[:, None] & inside[None, :],
    )
    if STATISTICS:
        # of the rounded values, which is what the next layer reads
        out = tl.where(inside[None, :], narrow.to(tl.float32), 0.0)
        mean = tl.sum(out, axis=1) / C
        centred = tl.where(inside[None, :], out - mean[:, None], 0.0)
        scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / C + eps)
        tl.store(statistics_ptr + first + local, mean, mask=valid)
        tl.store(statistics_ptr + T + first + local, scale, mask=valid)


def position_encoding_triton(
    x: Tensor, weight: Tensor, bias: Tensor, norm_eps: float | None = None
) -> tuple[Tensor, Tensor | None]:
    """Contract of `position_encoding_ref`.

    Args:
        weight: (9, C) float32, row-major taps.
        bias: (C,) float32.
        norm_eps: of the LayerNorm that follows, whose statistics are then computed as well.

    Returns:
        the map, and (2, B, H, W) float32 mean and 1 / sqrt(variance + eps) of its tokens, or None.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    T = B * H * W
    out = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    statistics = None
    if norm_eps is not None:
        statistics = torch.empty((2, B, H, W), dtype=torch.float32, device=x.device)
    block_t, block_c, warps = _tiles(T, C, statistics is not None)
    tile_w, num_tiles = tiling(B, H, W, block_t)
    _position_encoding_kernel[(num_tiles, triton.cdiv(C, block_c))](
        x,
        weight,
        bias,
        out,
        out if statistics is None else statistics,
        T,
        H,
        W,
        C,
        stride,
        norm_eps or 0.0,
        STATISTICS=statistics is not None,
        BLOCK_T=block_t,
        TILE_W=tile_w,
        BLOCK_C=block_c,
        num_warps=warps,
    )
    return out, statistics


def _tiles(T: int, C: int, with_statistics: bool) -> tuple[int, int, int]:
    """Tokens and channels of a tile, and warps; statistics need all channels of a token."""
    block_c = next_power_of_2(C) if with_statistics else min(128, next_power_of_2(C))
    return max(1, min(next_power_of_2(T), 1024 // block_c)), block_c, 4
