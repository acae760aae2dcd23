"""Semantic segmentation: Spatial-Mamba with the UPerNet head (arXiv:1807.10221)."""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import FUSED, KernelOps
from model.backbone import Backbone
from model.config import Variant
from model.layers import ConvNormAct, to_nchw

POOL_SIZES: Final = (1, 2, 3, 6)


def resize_bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), pixel centres at half-integers (align_corners False)."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """Context of the coarsest map at four pooled sizes, then a 3x3 bottleneck."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ConvNormAct(in_channels, channels, 1) for _ in POOL_SIZES)
        self.bottleneck = ConvNormAct(in_channels + len(POOL_SIZES) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H, W)."""
        size = (x.shape[2], x.shape[3])
        parts = [x]
        for pool, branch in zip(POOL_SIZES, self.branches, strict=True):
            parts.append(resize_bilinear(branch(F.adaptive_avg_pool2d(x, pool)), size))
        out: Tensor = self.bottleneck(torch.cat(parts, dim=1))
        return out


class UPerNetHead(nn.Module):
    """Feature pyramid over the four stages, fused at a quarter of the resolution."""

    def __init__(self, dims: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__()
        self.pyramid_pooling = PyramidPooling(dims[-1], channels)
        self.laterals = nn.ModuleList(ConvNormAct(dim, channels, 1) for dim in dims[:-1])
        self.outputs = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in dims[:-1])
        self.fuse = ConvNormAct(len(dims) * channels, channels, 3)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Four (B, C_i, H_i, W_i), fine to coarse -> (B, num_classes, H_0, W_0) logits."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, features[:-1], strict=True)]
        levels.append(self.pyramid_pooling(features[-1]))
        for i in range(len(levels) - 1, 0, -1):
            fine = levels[i - 1]
            levels[i - 1] = fine + resize_bilinear(levels[i], (fine.shape[2], fine.shape[3]))
        size = (levels[0].shape[2], levels[0].shape[3])
        merged = [conv(x) for conv, x in zip(self.outputs, levels[:-1], strict=True)]
        merged.append(levels[-1])
        merged = [merged[0], *(resize_bilinear(x, size) for x in merged[1:])]
        logits: Tensor = self.classify(self.fuse(torch.cat(merged, dim=1)))
        return logits


class Segmenter(nn.Module):
    """Spatial-Mamba for semantic segmentation."""

    def __init__(self, variant: Variant, num_classes: int, *, ops: KernelOps = FUSED) -> None:
        super().__init__()
        self.backbone = Backbone(variant.backbone, output_norms=True, ops=ops)
        self.head = UPerNetHead(variant.backbone.dims, variant.heads.upernet_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, num_classes, ceil(H / 4), ceil(W / 4)) logits."""
        logits: Tensor = self.head([to_nchw(x) for x in self.backbone(images)])
        return logits
