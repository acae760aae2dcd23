"""Depthwise convolution, SiLU and the projection to (dt, B, C): the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor


def conv_projection_ref(
    x: Tensor, conv_weight: Tensor, conv_bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """u = SiLU(depthwise 3x3 of x), p = u W^T.

    Args:
        x: (B, H, W, D).
        conv_weight: (D, 1, 3, 3), zero padding.
        conv_bias: (D,).
        weight: (R + 2, D), rows dt low-rank, B, C.

    Returns:
        u (B, H, W, D), dtype of x; p (B, H, W, R + 2), float32 (float64 for float64 input), from
        the rounded u.

    Source: arXiv:2410.15091v2, figure 3 (structure-aware SSM).
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    planes = x.to(compute).permute(0, 3, 1, 2)
    conv = F.conv2d(
        planes, conv_weight.to(compute), conv_bias.to(compute), padding=1, groups=x.shape[3]
    )
    u = F.silu(conv).permute(0, 2, 3, 1).contiguous().to(x.dtype)
    return u, F.linear(u.to(compute), weight.to(compute))
