"""Depthwise 3x3 convolutions of few tokens, with what follows them in the same pass.

A program owns a token with all its channels: the sums over them, of a LayerNorm's statistics or of
a projection, end where they began, and every multiprocessor has something to do. Weights are loaded
while the kernel before still runs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import as_tokens, is_precise, next_power_of_2
from kernels.shared_memory import prefer_shared
from kernels.triton_math import silu, token_position

# a lane holds four channels; with more, the projection's weight would not fit its registers
_MAX_CHANNELS = 1024
_MAX_RESULTS = 64
# multiplications of a projection above which the tensor cores are faster
_FEW_PRODUCTS = 1 << 22
# values of a map above which strips, which share what neighbours have in common, are faster
_FEW_VALUES = 1 << 19


@triton.jit
def _load_taps(taps_ptr, channel, inside, C):
    """Nine (channels,) float32."""
    taps = ()
    for i in tl.static_range(9):
        taps = taps + (tl.load(taps_ptr + i * C + channel, mask=inside, other=0.0),)
    return taps


@triton.jit
def _load_neighbours(x_ptr, token, channel, inside, H, W, STRIDE):
    """The nine (channels,) values around a token, zero outside its map."""
    row, col = token_position(token, H, W)
    own_ptr = x_ptr + token.to(tl.int64) * STRIDE + channel
    values = ()
    for i in tl.static_range(9):
        down, right = i // 3 - 1, i % 3 - 1
        exists = (row + down >= 0) & (row + down < H) & (col + right >= 0) & (col + right < W)
        there_ptr = own_ptr + (down * W + right) * STRIDE
        values = values + (tl.load(there_ptr, mask=inside & exists, other=0.0),)
    return values


@triton.jit
def _convolve(values, taps, bias):
    y = bias
    for i in tl.static_range(9):
        y += values[i].to(tl.float32) * taps[i]
    return y


@prefer_shared
@triton.jit(do_not_specialize=["H", "W"])
def _conv_projection_kernel(
    x_ptr,  # (T, C), tokens STRIDE apart
    taps_ptr,  # (9, C) float32
    bias_ptr,  # (C,) float32
    weight_ptr,  # (P, C)
    u_ptr,  # (T, C)
    out_ptr,  # (T, P)
    H,
    W,
    C: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    token = tl.program_id(0)
    channel = tl.arange(0, BLOCK_C)
    inside = (channel < C) | (C == BLOCK_C)
    result = tl.arange(0, BLOCK_P)
    wanted = (result < P) | (P == BLOCK_P)
    weight = tl.load(
        weight_ptr + result[:, None] * C + channel[None, :],
        mask=wanted[:, None] & inside[None, :],
        other=0.0,
    )
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0)
    taps = _load_taps(taps_ptr, channel, inside, C)
    await_predecessor(OVERLAP)
    values = _load_neighbours(x_ptr, token, channel, inside, H, W, STRIDE)
    u = silu(_convolve(values, taps, bias), PRECISE).to(u_ptr.dtype.element_ty)
    tl.store(u_ptr + token.to(tl.int64) * C + channel, u, mask=inside)
    sums = tl.sum(weight.to(tl.float32) * u.to(tl.float32)[None, :], axis=1)
    tl.store(
        out_ptr + token.to(tl.int64) * P + result, sums.to(out_ptr.dtype.element_ty), mask=wanted
    )


@prefer_shared
@triton.jit(do_not_specialize=["T", "H", "W"])
def _position_kernel(
    x_ptr,  # (T, C), tokens STRIDE apart
    taps_ptr,  # (9, C) float32
    bias_ptr,  # (C,) float32
    offset_ptr,  # (C,) float32, part of the bias, not of the statistics; read with OFFSET
    out_ptr,  # (T, C)
    statistics_ptr,  # (2, T) float32
    T,
    H,
    W,
    eps,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_C: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    token = tl.program_id(0)
    channel = tl.arange(0, BLOCK_C)
    inside = (channel < C) | (C == BLOCK_C)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0)
    taps = _load_taps(taps_ptr, channel, inside, C)
    if OFFSET:
        offset = tl.load(offset_ptr + channel, mask=inside, other=0.0)
    await_predecessor(OVERLAP)
    values = _load_neighbours(x_ptr, token, channel, inside, H, W, STRIDE)
    y = _convolve(values, taps, bias) + values[4].to(tl.float32)
    narrow = y.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token.to(tl.int64) * C + channel, narrow, mask=inside)
    # of the rounded values, which the next layer reads
    rounded = narrow.to(tl.float32)
    if OFFSET:
        rounded -= offset
    mean = tl.sum(rounded, axis=0) * (1.0 / C)
    centred = tl.where(inside, rounded - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) * (1.0 / C) + eps)
    tl.store(statistics_ptr + token, mean)
    tl.store(statistics_ptr + T + token, scale)


def has_few_tokens(x: Tensor) -> bool:
    """Whether the position encoding of a (B, H, W, C) map is fastest token by token."""
    return x.shape[3] <= _MAX_CHANNELS and x.numel() <= _FEW_VALUES


def has_few_products(x: Tensor, weight: Tensor) -> bool:
    """Whether convolution and projection are fastest together.

    Args:
        x: (B, H, W, C).
        weight: (P, C).
    """
    P, C = weight.shape
    return C <= _MAX_CHANNELS and P <= _MAX_RESULTS and x.numel() * P <= _FEW_PRODUCTS


def conv_projection_triton(
    x: Tensor, taps: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Contract of `conv_projection_ref`; x may be a slice of the channels of a wider map.

    Args:
        taps: (9, C) float32, row-major.
        bias: (C,) float32.
        weight: (P, C), dtype of x.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    P = weight.shape[0]
    u = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    out = torch.empty((B, H, W, P), dtype=x.dtype, device=x.device)
    _conv_projection_kernel[(B * H * W,)](
        x,
        taps,
        bias,
        weight,
        u,
        out,
        H,
        W,
        C=C,
        P=P,
        STRIDE=stride,
        PRECISE=is_precise(x.dtype),
        BLOCK_C=next_power_of_2(C),
        BLOCK_P=next_power_of_2(P),
        num_warps=_warps(C),
        **overlapping(),
    )
    return u, out


def position_encoding_token_triton(
    x: Tensor, taps: Tensor, bias: Tensor, norm_eps: float, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Contract and arguments of `position_encoding_triton` with a norm."""
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    out = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    statistics = torch.empty((2, B, H, W), dtype=torch.float32, device=x.device)
    _position_kernel[(B * H * W,)](
        x,
        taps,
        bias,
        bias if offset is None else offset,
        out,
        statistics,
        B * H * W,
        H,
        W,
        norm_eps,
        C=C,
        STRIDE=stride,
        OFFSET=offset is not None,
        BLOCK_C=next_power_of_2(C),
        num_warps=_warps(C),
        **overlapping(),
    )
    return out, statistics


def _warps(C: int) -> int:
    """Four channels a lane: with more, a lane's loads would not all be on their way at once."""
    return max(1, min(8, next_power_of_2(C) // 128))
