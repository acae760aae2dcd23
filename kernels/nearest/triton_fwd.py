"""Nearest-neighbour resizing of channels-last maps with a bias, in one pass.

The library's reads and writes half precision far slower than memory allows, and adds no bias.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import as_tokens, next_power_of_2
from kernels.triton_math import token_position


@triton.jit(do_not_specialize=["T", "H", "W", "OH", "OW"])
def _nearest_kernel(
    x_ptr,  # (B, H, W, C), tokens `stride` apart
    bias_ptr,  # (C,) float32
    out_ptr,  # (B, OH, OW, C), tokens `out_stride` apart
    T,
    H,
    W,
    OH,
    OW,
    C,
    stride,
    out_stride,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    mask = (token < T)[:, None] & inside[None, :]
    row, col = token_position(token, OH, OW)
    image = (token // (OH * OW)).to(tl.int64)
    source = (image * H + row * H // OH) * W + col * W // OW
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0)
    await_predecessor(OVERLAP)
    x = tl.load(x_ptr + source[:, None] * stride + channel[None, :], mask=mask, other=0.0)
    y = x.to(tl.float32) + bias[None, :]
    place = token.to(tl.int64)[:, None] * out_stride + channel[None, :]
    tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=mask)


def nearest_triton(
    x: Tensor, size: tuple[int, int], bias: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Contract of `nearest_ref`.

    Args:
        x: (B, H, W, C); a slice of the channels of a wider map is fine.
        out: written instead of a new tensor; x itself where the size stays.

    Raises:
        ValueError: `out` is not evenly spaced or has another shape.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    OH, OW = size
    if out is None:
        out = torch.empty((B, OH, OW, C), dtype=x.dtype, device=x.device)
    target, out_stride = as_tokens(out)
    if target is not out or out.shape != (B, OH, OW, C):
        raise ValueError(f"out must be {(B, OH, OW, C)} in channels-last memory, got {out.shape}")
    T = B * OH * OW
    block_c = min(256, next_power_of_2(C))
    block_t = max(1, 4096 // block_c)
    _nearest_kernel[(triton.cdiv(T, block_t), triton.cdiv(C, block_c))](
        x,
        bias,
        out,
        T,
        H,
        W,
        OH,
        OW,
        C,
        stride,
        out_stride,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=4,
        **overlapping(),
    )
    return out


def add_bias_(x: Tensor, bias: Tensor) -> Tensor:
    """X + bias in the memory of x.

    Args:
        x: (B, H, W, C), tokens evenly spaced, channels contiguous.
        bias: (C,) float32, or dtype of x.

    Returns:
        x.

    Raises:
        ValueError: x lies in memory otherwise.
    """
    return nearest_triton(x, (x.shape[1], x.shape[2]), bias, out=x)
