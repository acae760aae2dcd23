"""Depthwise 3x3 with stride 2, bias and ReLU in one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import next_power_of_2
from kernels.triton_math import token_position


@triton.jit(do_not_specialize=["T", "H", "W", "OH", "OW"])
def _depthwise_stride2_kernel(
    x_ptr,  # (B, H, W, C)
    weight_ptr,  # (9, C) float32
    bias_ptr,  # (C,) float32
    out_ptr,  # (B, OH, OW, C)
    T,
    H,
    W,
    OH,
    OW,
    C,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    start = tl.program_id(0) * BLOCK_T
    token = start + tl.arange(0, BLOCK_T)
    valid = token < T
    row, col = token_position(token, OH, OW)
    image = (token // (OH * OW)).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    await_predecessor(OVERLAP)
    acc = tl.zeros([BLOCK_T, BLOCK_C], dtype=tl.float32)
    for i in range(3):
        r = 2 * row + (i - 1)
        for j in tl.static_range(3):
            c = 2 * col + (j - 1)
            exists = valid & (r >= 0) & (r < H) & (c >= 0) & (c < W)
            value = tl.load(
                x_ptr + (((image * H + r) * W + c) * C)[:, None] + channel[None, :],
                mask=exists[:, None] & inside[None, :],
                other=0.0,
            )
            weight = tl.load(weight_ptr + (3 * i + j) * C + channel, mask=inside, other=0.0)
            acc += value.to(tl.float32) * weight[None, :]
    acc += tl.load(bias_ptr + channel, mask=inside, other=0.0)[None, :]
    # not max(): NaN must stay visible
    acc = tl.where(acc < 0.0, 0.0, acc)
    tl.store(
        out_ptr + (token.to(tl.int64) * C)[:, None] + channel[None, :],
        acc.to(out_ptr.dtype.element_ty),
        mask=valid[:, None] & inside[None, :],
    )


def depthwise_stride2_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Contract of `depthwise_stride2_ref`.

    Args:
        weight: (9, C) float32, row-major taps.
        bias: (C,) float32.
    """
    x = x.contiguous()
    B, H, W, C = x.shape
    OH, OW = triton.cdiv(H, 2), triton.cdiv(W, 2)
    T = B * OH * OW
    out = torch.empty((B, OH, OW, C), dtype=x.dtype, device=x.device)
    block_t, block_c, warps = _tiles(T, C)
    _depthwise_stride2_kernel[(triton.cdiv(T, block_t), triton.cdiv(C, block_c))](
        x,
        weight,
        bias,
        out,
        T,
        H,
        W,
        OH,
        OW,
        C,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=warps,
        **overlapping(),
    )
    return out


def _tiles(T: int, C: int) -> tuple[int, int, int]:
    """Tokens and channels of a tile, and warps."""
    block_c = min(128, next_power_of_2(C))
    return max(1, min(next_power_of_2(T), 2048 // block_c)), block_c, 4
