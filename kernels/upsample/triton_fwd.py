"""Bilinear resizing of channels-last maps, straight into a slice of a wider map.

The library's resizing writes a map of its own, which concatenation then copies; here the result
lands where it is needed, and the pyramid's sum happens on the way.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import as_tokens, next_power_of_2
from kernels.triton_math import token_position


@triton.jit
def _taps(index, length, target):
    """Lower and upper source index and the upper one's weight of each target index.

    The position ((index + 1/2) length / target - 1/2) is a fraction over 2 target; in integers its
    parts are exact.
    """
    numerator = tl.maximum((2 * index + 1) * length - target, 0)
    low = numerator // (2 * target)
    weight = (numerator - low * 2 * target).to(tl.float32) / (2 * target)
    high = tl.minimum(low + 1, length - 1)
    return tl.minimum(low, length - 1), high, weight


@triton.jit(do_not_specialize=["T", "H", "W", "OH", "OW"])
def _upsample_kernel(
    x_ptr,  # (B, H, W, C), tokens `x_stride` apart
    add_ptr,  # (B, OH, OW, C), tokens `add_stride` apart; read with ADD
    out_ptr,  # (B, OH, OW, C), tokens `out_stride` apart
    T,
    H,
    W,
    OH,
    OW,
    C,
    x_stride,
    add_stride,
    out_stride,
    ADD: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    valid = token < T
    row, col = token_position(token, OH, OW)
    image = (token // (OH * OW)).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = valid[:, None] & (channel < C)[None, :]
    top, bottom, down = _taps(row, H, OH)
    left, right, across = _taps(col, W, OW)
    upper, lower = (image * H + top) * W, (image * H + bottom) * W
    await_predecessor(OVERLAP)
    y = tl.zeros([BLOCK_T, BLOCK_C], dtype=tl.float32)
    for i in tl.static_range(4):
        line = upper if i < 2 else lower
        place = left if i % 2 == 0 else right
        weight = (1.0 - down if i < 2 else down) * (1.0 - across if i % 2 == 0 else across)
        offset = ((line + place) * x_stride)[:, None] + channel[None, :]
        y += tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32) * weight[:, None]
    wide = token.to(tl.int64)[:, None]
    if ADD:
        offset = wide * add_stride + channel[None, :]
        y += tl.load(add_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(
        out_ptr + wide * out_stride + channel[None, :], y.to(out_ptr.dtype.element_ty), mask=mask
    )


def upsample_triton(
    x: Tensor, size: tuple[int, int], add: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """Contract of `upsample_ref`.

    Args:
        x, add: slices of the channels of wider maps are fine.
        out: written instead of a new tensor; a slice of the channels of a wider map is fine.

    Raises:
        ValueError: `out` is neither contiguous nor such a slice, or has another shape.
    """
    x, x_stride = as_tokens(x)
    B, H, W, C = x.shape
    OH, OW = size
    if out is None:
        out = torch.empty((B, OH, OW, C), dtype=x.dtype, device=x.device)
    target, out_stride = as_tokens(out)
    if target is not out or out.shape != (B, OH, OW, C):
        raise ValueError(f"out must be {(B, OH, OW, C)} in channels-last memory, got {out.shape}")
    added, add_stride = (out, 0) if add is None else as_tokens(add)
    T = B * OH * OW
    block_c = min(256, next_power_of_2(C))
    block_t = max(1, 2048 // block_c)
    _upsample_kernel[(triton.cdiv(T, block_t), triton.cdiv(C, block_c))](
        x,
        added,
        out,
        T,
        H,
        W,
        OH,
        OW,
        C,
        x_stride,
        add_stride,
        out_stride,
        ADD=add is not None,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=4,
        **overlapping(),
    )
    return out
