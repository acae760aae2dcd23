"""Depthwise 3x3 convolutions with their neighbours: residual and LayerNorm statistics, or SiLU.

The number of channels and the elements between tokens are constants of the compiled kernels: then
the nine loads of a row of a strip share one address, and conditions that always hold cost nothing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import as_tokens, is_precise, next_power_of_2
from kernels.strips import WIDTH, is_wide, locate_strips, num_strips
from kernels.triton_math import silu


@triton.jit
def _load_taps(ptr, inside, BLOCK_S: tl.constexpr):
    """(strips, channels) weights: each thread reads those of its own channels.

    A (channels,) tensor would be dealt out through shared memory.
    """
    return tl.load(ptr[None, :] + tl.zeros([BLOCK_S, 1], tl.int32), mask=inside, other=0.0)


@triton.jit
def _convolve_strips(
    own_ptr,
    weight_ptr,
    bias_ptr,
    row,
    col,
    inside,
    H,
    W,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """(strips, channels) float32 for each token of a strip: the convolution with zero padding.

    Only what can lie outside the map is masked, since a mask costs a filling with zeros.
    """
    BLOCK_S: tl.constexpr = row.shape[0]
    bias = _load_taps(bias_ptr, inside, BLOCK_S)
    sums = (bias, bias, bias, bias, bias, bias, bias)
    for i in tl.static_range(3):
        has_row = ((row >= 1) | (i != 0)) & ((row < H - 1) | (i != 2))
        left = _load_taps(weight_ptr + 3 * i * C, inside, BLOCK_S)
        middle = _load_taps(weight_ptr + (3 * i + 1) * C, inside, BLOCK_S)
        right = _load_taps(weight_ptr + (3 * i + 2) * C, inside, BLOCK_S)
        if RESIDUAL and i == 1:
            middle += 1.0
        line_ptr = own_ptr + (i - 1) * W * STRIDE
        for k in tl.static_range(WIDTH + 2):
            has_col = ((col >= 1) | (k > 0)) & ((col + (k - 1) < W) | (k <= (WIDTH if WIDE else 1)))
            exists = (has_row & has_col)[:, None] & inside
            value = tl.load(line_ptr + (k - 1) * STRIDE, mask=exists, other=0.0).to(tl.float32)
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


@triton.jit
def _store_statistics(statistics_ptr, kept, offset, inside, token, exists, T, eps, C: tl.constexpr):
    """LayerNorm statistics of the rounded values, which the next layer reads, less an offset.

    Args:
        kept: the values of one token of each strip, (strips, channels) per chunk, zero outside.
        offset: likewise, or 0.0 per chunk.
        inside: (1, channels) of the last chunk; the others are whole.
    """
    total = kept[0].to(tl.float32) - offset[0]
    for n in tl.static_range(1, len(kept)):
        total += kept[n].to(tl.float32) - offset[n]
    mean = tl.sum(total, axis=1) * (1.0 / C)
    squares = tl.zeros(kept[0].shape, tl.float32)
    for n in tl.static_range(len(kept)):
        centred = kept[n].to(tl.float32) - offset[n] - mean[:, None]
        squares += tl.where(inside | (n < len(kept) - 1), centred * centred, 0.0)
    scale = tl.rsqrt(tl.sum(squares, axis=1) * (1.0 / C) + eps)
    tl.store(statistics_ptr + token, mean, mask=exists)
    tl.store(statistics_ptr + T + token, scale, mask=exists)


@triton.jit(do_not_specialize=["B", "H", "W"])
def _depthwise_kernel(
    x_ptr,  # (T, C), tokens STRIDE apart
    weight_ptr,  # (9, C) float32
    bias_ptr,  # (C,) float32
    offset_ptr,  # (C,) float32, part of the bias, not of the statistics; read with OFFSET
    out_ptr,  # (T, C)
    statistics_ptr,  # (2, T) float32; written with STATISTICS
    B,
    H,
    W,
    eps,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    SILU: tl.constexpr,
    STATISTICS: tl.constexpr,
    OFFSET: tl.constexpr,
    PRECISE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHUNKS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    token, row, col = locate_strips(B, H, W, WIDE, BLOCK_S)
    await_predecessor(OVERLAP)
    kept = ()
    for n in tl.static_range(CHUNKS):
        channel = (tl.program_id(1) * CHUNKS + n) * BLOCK_C + tl.arange(0, BLOCK_C)
        inside = (channel < C)[None, :] | (C % BLOCK_C == 0)
        own_ptr = x_ptr + (token * STRIDE)[:, None] + channel[None, :]
        sums = _convolve_strips(
            own_ptr,
            weight_ptr + channel,
            bias_ptr + channel,
            row,
            col,
            inside,
            H,
            W,
            C,
            STRIDE,
            not SILU,
            WIDE,
        )
        there_ptr = out_ptr + (token * C)[:, None] + channel[None, :]
        for j in tl.static_range(WIDTH):
            exists = (col + j < W) | WIDE
            y = silu(sums[j], PRECISE) if SILU else sums[j]
            y = y.to(out_ptr.dtype.element_ty)
            tl.store(there_ptr + j * C, y, mask=exists[:, None] & inside)
            kept = kept + (y,)
    if STATISTICS:
        # read only now: during the sums there are no registers to spare
        offset = ()
        for n in tl.static_range(CHUNKS):
            channel = n * BLOCK_C + tl.arange(0, BLOCK_C)
            inside = (channel < C)[None, :] | (C % BLOCK_C == 0)
            own = _load_taps(offset_ptr + channel, inside, BLOCK_S) if OFFSET else 0.0
            offset = offset + (own,)
        for j in tl.static_range(WIDTH):
            exists = (col + j < W) | WIDE
            _store_statistics(
                statistics_ptr, kept[j::WIDTH], offset, inside, token + j, exists, B * H * W, eps, C
            )


def position_encoding_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_eps: float | None = None,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Contract of `position_encoding_ref`.

    Args:
        weight: (9, C) float32, row-major taps.
        bias: (C,) float32.
        norm_eps: of the LayerNorm that follows, whose statistics are then computed as well.
        offset: (C,) float32, the part of the bias which that norm must not see: the statistics are
            those of the map less the offset.

    Returns:
        the map, and (2, B, H, W) float32 mean and 1 / sqrt(variance + eps) of its tokens, or None.
    """
    statistics = None
    if norm_eps is not None:
        statistics = torch.empty((2, *x.shape[:3]), dtype=torch.float32, device=x.device)
    out = _launch(x, weight, bias, statistics, norm_eps or 0.0, offset, with_silu=False)
    return out, statistics


def conv_silu_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Contract of `conv_silu_ref`; x may be a slice of the channels of a wider map.

    Args:
        weight: (9, C) float32, row-major taps.
        bias: (C,) float32.
    """
    return _launch(x, weight, bias, None, 0.0, None, with_silu=True)


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor | None,
    eps: float,
    offset: Tensor | None,
    *,
    with_silu: bool,
) -> Tensor:
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    out = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    strips = num_strips(B, H, W)
    block_s, block_c, warps = _tiles(strips, C, statistics is not None)
    # statistics need all channels of a token
    chunks = 1 if statistics is None else triton.cdiv(C, block_c)
    _depthwise_kernel[(triton.cdiv(strips, block_s), triton.cdiv(C, block_c * chunks))](
        x,
        weight,
        bias,
        bias if offset is None else offset,
        out,
        out if statistics is None else statistics,
        B,
        H,
        W,
        eps,
        C=C,
        STRIDE=stride,
        SILU=with_silu,
        STATISTICS=statistics is not None,
        OFFSET=offset is not None,
        PRECISE=is_precise(x.dtype),
        WIDE=is_wide(W),
        BLOCK_S=block_s,
        BLOCK_C=block_c,
        CHUNKS=chunks,
        num_warps=warps,
        **overlapping(),
    )
    return out


def _tiles(strips: int, C: int, with_statistics: bool) -> tuple[int, int, int]:
    """Strips and channels of a tile, and warps."""
    padded = next_power_of_2(C)
    if with_statistics:
        # three times a power of two: rounded up, a quarter of the lanes would be idle
        block_c = C // 3 if C % 3 == 0 and next_power_of_2(C // 3) == C // 3 else padded
        # deep stages have few strips: two warps each, though their sums meet in shared memory
        return 1, block_c, 2 if C >= 512 else 1
    block_c = min(64, padded)
    if strips * padded <= 132 * 512:
        return max(1, 128 // block_c), block_c, 1
    return (8, block_c, max(1, block_c // 16)) if C <= 512 else (16, 32, 4)
