"""Nearest-neighbour resizing with a bias: the truth."""

import torch
from torch import Tensor


def nearest_ref(x: Tensor, size: tuple[int, int], bias: Tensor) -> Tensor:
    """out[y, x] = in[floor(y H / H'), floor(x W / W')] + bias.

    Args:
        x: (B, H, W, C).
        size: (H', W').
        bias: (C,) float32, or dtype of x.

    Returns:
        (B, H', W', C), dtype of x; the sum runs in float32, or float64 for float64 input.

    Source: arXiv:1612.03144, section 3 (the top-down pathway).
    """
    _, H, W, _ = x.shape
    compute = torch.promote_types(x.dtype, torch.float32)
    row = torch.arange(size[0], device=x.device) * H // size[0]
    col = torch.arange(size[1], device=x.device) * W // size[1]
    return (x[:, row][:, :, col].to(compute) + bias.to(compute)).to(x.dtype)
