"""Bilinear resizing of channels-last maps: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample_ref(x: Tensor, size: tuple[int, int], add: Tensor | None = None) -> Tensor:
    """Bilinear resize (pixel centres at half-integers), then optionally a sum.

    Args:
        x: (B, H, W, C).
        size: (H', W').
        add: (B, H', W', C).

    Returns:
        (B, H', W', C), dtype of x; float32 (or float64) inside.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    y = F.interpolate(
        x.to(compute).permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False
    ).permute(0, 2, 3, 1)
    return (y if add is None else y + add.to(compute)).to(x.dtype).contiguous()
