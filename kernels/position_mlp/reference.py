"""Position encoding and the MLP with both residuals in one step: the truth."""

from torch import Tensor

from kernels.depthwise.reference import position_encoding_ref
from kernels.linear.reference import linear_ref


def position_mlp_ref(
    x: Tensor,
    position_weight: Tensor,
    position_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    norm_eps: float,
) -> Tensor:
    """x1 = x + position encoding; x1 + GELU(norm(x1) W1^T + b1) W2^T + b2.

    Args:
        x: (B, H, W, C).
        position_weight: (C, 1, 3, 3).
        position_bias: (C,).
        weight1: (M, C) with LayerNorm's gain folded in.
        bias1: (M,) with LayerNorm's bias folded in.
        weight2: (C, M).
        bias2: (C,).

    Returns:
        (B, H, W, C), dtype of x.

    Source: arXiv:2410.15091v2, figure 3.
    """
    x1 = position_encoding_ref(x, position_weight, position_bias)
    hidden = linear_ref(x1, weight1, bias1, norm_eps=norm_eps, activation="gelu")
    return linear_ref(hidden, weight2, bias2, residual=x1)
