"""Feature Pyramid Network (arXiv:1612.03144) with the extra level that only the RPN uses."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, nearest top-down sums, 3x3 output convolutions."""

    def __init__(self, dims: Sequence[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(dim, channels, 1) for dim in dims)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in dims)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Four (B, C_i, H_i, W_i), fine to coarse -> five (B, channels, ., .); strides 4..64."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            fine = levels[i - 1]
            size = (fine.shape[2], fine.shape[3])
            levels[i - 1] = fine + F.interpolate(levels[i], size=size, mode="nearest")
        pyramid = [conv(x) for conv, x in zip(self.outputs, levels, strict=True)]
        # the fifth level takes every second pixel of the fourth
        pyramid.append(F.max_pool2d(pyramid[-1], kernel_size=1, stride=2))
        return pyramid
