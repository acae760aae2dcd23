"""Conditional position encoding with its residual: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor


def position_encoding_ref(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x + depthwise 3x3 correlation of x, zero padding.

    Args:
        x: (B, H, W, C).
        weight: (C, 1, 3, 3).
        bias: (C,).

    Returns:
        (B, H, W, C), dtype of x; sums run in float32, or float64 for float64 input.

    Source: arXiv:2410.15091v2, figure 3 (the block), conditional position encoding of
    arXiv:2102.10882.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    planes = x.to(compute).permute(0, 3, 1, 2)
    encoded = F.conv2d(planes, weight.to(compute), bias.to(compute), padding=1, groups=x.shape[3])
    return (planes + encoded).permute(0, 2, 3, 1).contiguous().to(x.dtype)
