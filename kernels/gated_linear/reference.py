"""LayerNorm, gate, output projection and residual: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gated_linear_ref(
    y: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    residual: Tensor,
    norm_eps: float,
) -> Tensor:
    """Output projection residual + (norm(y) * gate) W^T.

    Args:
        y: (B, H, W, E).
        gate: (B, H, W, E), SiLU(z) already applied.
        norm_weight: (E,) LayerNorm's gain.
        norm_bias: (E,).
        weight: (C, E).
        residual: (B, H, W, C).

    Returns:
        (B, H, W, C), dtype of y; float32 (or float64) inside, the gated values rounded to the
        dtype before the product.

    Source: arXiv:2410.15091v2, figure 3.
    """
    compute = torch.promote_types(y.dtype, torch.float32)
    gain, bias = norm_weight.to(compute), norm_bias.to(compute)
    normed = F.layer_norm(y.to(compute), y.shape[-1:], gain, bias, norm_eps)
    gated = (normed * gate.to(compute)).to(y.dtype).to(compute)
    return (residual.to(compute) + F.linear(gated, weight.to(compute))).to(y.dtype)
