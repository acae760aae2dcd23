"""LayerNorm over the channels of a map, many tokens a program.

The library's gives a block of threads to each token, whose few channels leave most of them idle.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import as_tokens, next_power_of_2
from kernels.triton_math import normalise_rows


@triton.jit(do_not_specialize=["T"])
def _layer_norm_kernel(
    x_ptr,  # (T, C), tokens `stride` apart
    weight_ptr,  # (C,) float32
    bias_ptr,  # (C,) float32
    out_ptr,  # (T, C)
    T,
    eps,
    stride,
    C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    channel = tl.arange(0, BLOCK_C)
    inside = channel < C
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0)
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    mask = (token < T)[:, None] & inside[None, :]
    wide = token.to(tl.int64)[:, None]
    await_predecessor(OVERLAP)
    x = tl.load(x_ptr + wide * stride + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    y = normalise_rows(x, inside, C, eps) * weight[None, :] + bias[None, :]
    tl.store(out_ptr + wide * C + channel[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)


def layer_norm_triton(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Contract of `layer_norm_ref`.

    Args:
        x: (B, H, W, C); a slice of the channels of a wider map is fine.

    Raises:
        ValueError: x is no map.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    out = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    block_c = next_power_of_2(C)
    block_t = max(1, 2048 // block_c)
    _layer_norm_kernel[(triton.cdiv(B * H * W, block_t),)](
        x,
        weight,
        bias,
        out,
        B * H * W,
        eps,
        stride,
        C=C,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=4,
        **overlapping(),
    )
    return out
