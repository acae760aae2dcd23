"""Depthwise 3x3 with stride 2, between the two 1x1 convolutions of a down-sampling: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_stride2_ref(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU of a depthwise 3x3 convolution with stride 2 and zero padding.

    Args:
        x: (B, H, W, C).
        weight: (C, 1, 3, 3).
        bias: (C,).

    Returns:
        (B, ceil(H / 2), ceil(W / 2), C), dtype of x; float32 (or float64) inside.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    planes = x.to(compute).permute(0, 3, 1, 2)
    y = F.conv2d(
        planes, weight.to(compute), bias.to(compute), stride=2, padding=1, groups=x.shape[3]
    )
    return F.relu(y).permute(0, 2, 3, 1).contiguous().to(x.dtype)
