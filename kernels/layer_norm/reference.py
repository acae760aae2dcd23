"""LayerNorm over the channels of a map: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm_ref(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis.

    Args:
        x: (B, H, W, C).
        weight, bias: (C,) float32.

    Returns:
        (B, H, W, C), dtype of x; sums run in float32, or float64 for float64 input.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    y = F.layer_norm(x.to(compute), x.shape[-1:], weight.to(compute), bias.to(compute), eps)
    return y.to(x.dtype)
