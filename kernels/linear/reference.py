"""Linear layer with everything that surrounds it in the networks: the truth."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["none", "relu", "gelu", "silu_second_half"]


def linear_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_eps: float | None = None,
    offset: Tensor | None = None,
    activation: Activation = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """Linear layer activation(norm(x) W^T + bias) + residual.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,) or None.
        norm_eps: LayerNorm without gain and bias (they are folded into weight and bias) over K
            before the product; None: no norm.
        offset: (K,) or None; taken away from x before the norm.
        activation: `gelu` is the exact one; `silu_second_half` applies SiLU to columns from N / 2,
            the gate's half of the input projection.
        residual: (..., N), added last.

    Returns:
        (..., N), dtype of x; products and sums run in float32, or float64 for float64 input.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    y = x.to(compute)
    if offset is not None:
        y = y - offset.to(compute)
    if norm_eps is not None:
        # the normalised values are rounded to the dtype, as separate layers would do it
        y = F.layer_norm(y, y.shape[-1:], eps=norm_eps).to(x.dtype).to(compute)
    y = F.linear(y, weight.to(compute), None if bias is None else bias.to(compute))
    y = _activate(y, activation)
    if residual is not None:
        y = y + residual.to(compute)
    return y.to(x.dtype)


def _activate(y: Tensor, activation: Activation) -> Tensor:
    if activation == "relu":
        return F.relu(y)
    if activation == "gelu":
        return F.gelu(y)
    if activation == "silu_second_half":
        first, second = y.chunk(2, dim=-1)
        return torch.cat((first, F.silu(second)), dim=-1)
    return y
