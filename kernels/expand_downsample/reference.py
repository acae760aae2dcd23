"""1x1 convolution, ReLU, depthwise 3x3 with stride 2: the wide half of a down-sampling."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.downsample.reference import depthwise_stride2_ref


def expand_downsample_ref(
    x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor, taps_bias: Tensor
) -> Tensor:
    """ReLU of a depthwise 3x3 convolution, stride 2, of ReLU(x weight^T + bias).

    The zeros around the picture are those of the wide map, which itself is nowhere rounded.

    Args:
        x: (B, H, W, C).
        weight: (N, C).
        bias: (N,).
        taps: (N, 1, 3, 3).
        taps_bias: (N,).

    Returns:
        (B, ceil(H / 2), ceil(W / 2), N), dtype of x; float32 (or float64) inside.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    wide = F.relu(F.linear(x.to(compute), weight.to(compute), bias.to(compute)))
    return depthwise_stride2_ref(wide, taps, taps_bias).to(x.dtype)
