"""Depthwise 3x3 convolutions with what surrounds them in a block: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear.reference import linear_ref


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, H, W, C) in float32 or float64, zero padding."""
    compute = torch.promote_types(x.dtype, torch.float32)
    planes = x.to(compute).permute(0, 3, 1, 2)
    y = F.conv2d(planes, weight.to(compute), bias.to(compute), padding=1, groups=x.shape[3])
    return y.permute(0, 2, 3, 1)


def position_encoding_ref(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Sum of x and its depthwise 3x3 convolution: conditional position encoding with its residual.

    Args:
        x: (B, H, W, C).
        weight: (C, 1, 3, 3).
        bias: (C,).

    Returns:
        (B, H, W, C), dtype of x; sums run in float32, or float64 for float64 input.

    Source: arXiv:2410.15091v2, figure 3 (the block); arXiv:2102.10882.
    """
    y = _convolve(x, weight, bias)
    return (x.to(y.dtype) + y).to(x.dtype).contiguous()


def conv_silu_ref(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the depthwise 3x3 convolution of x, the input u of the scan; as above.

    Source: arXiv:2410.15091v2, figure 3 (structure-aware SSM).
    """
    return F.silu(_convolve(x, weight, bias)).to(x.dtype).contiguous()


def conv_projection_ref(
    x: Tensor, weight: Tensor, bias: Tensor, projection: Tensor
) -> tuple[Tensor, Tensor]:
    """The input u of the scan and its projection to the low-rank dt, B and C.

    Args:
        x, weight, bias: as for `conv_silu_ref`.
        projection: (P, C).

    Returns:
        (B, H, W, C) and (B, H, W, P), dtype of x.

    Source: arXiv:2410.15091v2, figure 3 (structure-aware SSM).
    """
    u = conv_silu_ref(x, weight, bias)
    return u, linear_ref(u, projection)
