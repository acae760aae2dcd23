"""Depthwise 3x3 convolutions with their neighbours: residual and LayerNorm statistics, or SiLU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import as_tokens, is_precise, next_power_of_2
from kernels.strips import WIDTH, locate_strips, num_strips
from kernels.triton_math import silu


@triton.jit
def _convolve_strips(
    x_ptr, weight_ptr, token, row, col, channel, inside, H, W, C, stride, BLOCK_S: tl.constexpr
):
    """(strips, channels) float32 for each token of a strip: the convolution with zero padding."""
    zero = tl.zeros([BLOCK_S, channel.shape[0]], dtype=tl.float32)
    sums = (zero, zero, zero, zero, zero, zero, zero)
    for i in tl.static_range(3):
        r = row + (i - 1)
        line = (token + (i - 1) * W) * stride
        taps_ptr = weight_ptr + 3 * i * C + channel
        left = tl.load(taps_ptr, mask=inside, other=0.0)[None, :]
        middle = tl.load(taps_ptr + C, mask=inside, other=0.0)[None, :]
        right = tl.load(taps_ptr + 2 * C, mask=inside, other=0.0)[None, :]
        for k in tl.static_range(WIDTH + 2):
            c = col + (k - 1)
            exists = (r >= 0) & (r < H) & (c >= 0) & (c < W)
            value = tl.load(
                x_ptr + (line + (k - 1) * stride)[:, None] + channel[None, :],
                mask=exists[:, None] & inside[None, :],
                other=0.0,
            ).to(tl.float32)
            updated = ()
            for j in tl.static_range(WIDTH):
                total = sums[j]
                if k == j:
                    total += value * left
                if k == j + 1:
                    total += value * middle
                if k == j + 2:
                    total += value * right
                updated = updated + (total,)
            sums = updated
    return sums


@triton.jit(do_not_specialize=["B", "H", "W"])
def _depthwise_kernel(
    x_ptr,  # (T, C), tokens `stride` apart
    weight_ptr,  # (9, C) float32
    bias_ptr,  # (C,) float32
    out_ptr,  # (T, C)
    statistics_ptr,  # (2, T) float32; written with STATISTICS
    B,
    H,
    W,
    C,
    stride,
    eps,
    SILU: tl.constexpr,
    STATISTICS: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first, token, row, col, exists = locate_strips(B, H, W, BLOCK_S)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    x_ptr += first * stride
    out_ptr += first * C
    sums = _convolve_strips(
        x_ptr, weight_ptr, token, row, col, channel, inside, H, W, C, stride, BLOCK_S
    )
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0)[None, :]
    for j in tl.static_range(WIDTH):
        wanted = exists & (col + j < W)
        mask = wanted[:, None] & inside[None, :]
        y = sums[j] + bias
        if SILU:
            y = silu(y, PRECISE)
        else:
            own = ((token + j) * stride)[:, None] + channel[None, :]
            y += tl.load(x_ptr + own, mask=mask, other=0.0).to(tl.float32)
        narrow = y.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + ((token + j) * C)[:, None] + channel[None, :], narrow, mask=mask)
        if STATISTICS:
            # of the rounded values, which is what the next layer reads
            y = tl.where(inside[None, :], narrow.to(tl.float32), 0.0)
            mean = tl.sum(y, axis=1) / C
            y = tl.where(inside[None, :], y - mean[:, None], 0.0)
            scale = tl.rsqrt(tl.sum(y * y, axis=1) / C + eps)
            tl.store(statistics_ptr + first + token + j, mean, mask=wanted)
            tl.store(statistics_ptr + B * H * W + first + token + j, scale, mask=wanted)


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
    statistics = None
    if norm_eps is not None:
        statistics = torch.empty((2, *x.shape[:3]), dtype=torch.float32, device=x.device)
    return _launch(x, weight, bias, statistics, norm_eps or 0.0, with_silu=False), statistics


def conv_silu_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Contract of `conv_silu_ref`; x may be a slice of the channels of a wider map.

    Args:
        weight: (9, C) float32, row-major taps.
        bias: (C,) float32.
    """
    return _launch(x, weight, bias, None, 0.0, with_silu=True)


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor | None,
    eps: float,
    *,
    with_silu: bool,
) -> Tensor:
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    out = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    strips = num_strips(B, H, W)
    block_s, block_c, warps = _tiles(strips, C, statistics is not None)
    _depthwise_kernel[(triton.cdiv(strips, block_s), triton.cdiv(C, block_c))](
        x,
        weight,
        bias,
        out,
        out if statistics is None else statistics,
        B,
        H,
        W,
        C,
        stride,
        eps,
        SILU=with_silu,
        STATISTICS=statistics is not None,
        PRECISE=is_precise(x.dtype),
        BLOCK_S=block_s,
        BLOCK_C=block_c,
        num_warps=warps,
    )
    return out


def _tiles(strips: int, C: int, with_statistics: bool) -> tuple[int, int, int]:
    """Strips and channels of a tile, and warps; statistics need all channels of a token."""
    padded = next_power_of_2(C)
    if with_statistics:
        return 1, padded, max(1, padded // 256)
    block_c = min(64, padded)
    if strips * padded <= 132 * 512:
        return max(1, 128 // block_c), block_c, 1
    return (8, block_c, max(1, block_c // 16)) if C <= 512 else (16, 32, 4)
