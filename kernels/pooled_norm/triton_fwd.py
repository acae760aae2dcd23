"""LayerNorm and the mean over all positions in one pass: a program owns a map."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import next_power_of_2
from kernels.shared_memory import prefer_shared
from kernels.triton_math import normalise_rows


@prefer_shared
@triton.jit(do_not_specialize=["L"])
def _pooled_norm_kernel(
    x_ptr,  # (B, L, C)
    out_ptr,  # (B, C)
    L,
    eps,
    C: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_C: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_predecessor(OVERLAP)
    image = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK_C)
    inside = channel < C
    total = tl.zeros([BLOCK_L, BLOCK_C], dtype=tl.float32)
    for start in range(0, L, BLOCK_L):
        token = start + tl.arange(0, BLOCK_L)
        offset = (image * L + token)[:, None] * C + channel[None, :]
        exists = (token < L)[:, None]
        x = tl.load(x_ptr + offset, mask=exists & inside[None, :], other=0.0).to(tl.float32)
        # a token of zeros stays one
        total += normalise_rows(x, inside, C, eps)
    mean = tl.sum(total, axis=0) / L
    tl.store(out_ptr + image * C + channel, mean.to(out_ptr.dtype.element_ty), mask=inside)


def pooled_norm_triton(x: Tensor, eps: float) -> Tensor:
    """Contract of `pooled_norm_ref`."""
    x = x.contiguous()
    B, H, W, C = x.shape
    out = torch.empty((B, C), dtype=x.dtype, device=x.device)
    block_c = next_power_of_2(C)
    _pooled_norm_kernel[(B,)](
        x,
        out,
        H * W,
        eps,
        C=C,
        BLOCK_L=max(1, min(next_power_of_2(H * W), 16384 // block_c)),
        BLOCK_C=block_c,
        num_warps=16,
        **overlapping(),
    )
    return out
