"""Position encoding, LayerNorm and the input projection in one step: the truth."""

from torch import Tensor

from kernels.depthwise.reference import position_encoding_ref
from kernels.linear.reference import linear_ref


def position_linear_ref(
    x: Tensor,
    position_weight: Tensor,
    position_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_eps: float,
) -> tuple[Tensor, Tensor]:
    """x1 = x + position encoding; (x1, [a, SiLU(b)]) with [a, b] = norm(x1) W^T + bias.

    Args:
        x: (B, H, W, C).
        position_weight: (C, 1, 3, 3).
        position_bias: (C,).
        weight: (N, C) with LayerNorm's gain folded in.
        bias: (N,) with LayerNorm's bias folded in.

    Returns:
        (B, H, W, C) and (B, H, W, N), dtype of x.

    Source: arXiv:2410.15091v2, figure 3.
    """
    x1 = position_encoding_ref(x, position_weight, position_bias)
    return x1, linear_ref(x1, weight, bias, norm_eps=norm_eps, activation="silu_second_half")
