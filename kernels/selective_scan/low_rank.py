"""The selective scan of state size 1 with step sizes in low-rank form: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.selective_scan.reference import selective_scan_ref


def low_rank_scan_ref(
    u: Tensor, projected: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor
) -> Tensor:
    """States of `selective_scan_ref` for delta = projected[..., :R] dt_weight^T.

    Args:
        u: (B, H, W, D).
        projected: (B, H, W, R + 2): dt low-rank, B, C.
        dt_weight: (D, R).
        dt_bias: (D,).
        A: (D,) float32, negative.

    Returns:
        (B, H, W, D) in the dtype of u; raster order, float32 (or float64) inside.
    """
    compute = torch.promote_types(u.dtype, torch.float32)
    rank = dt_weight.shape[1]
    low_rank = projected[..., :rank].to(compute)
    delta = F.linear(low_rank, dt_weight.to(compute)).flatten(1, 2)
    states = selective_scan_ref(
        u.to(compute).flatten(1, 2),
        delta,
        A.unsqueeze(1),
        projected[..., rank : rank + 1].to(compute).flatten(1, 2),
        dt_bias,
        True,
    )
    return states.view(u.shape).to(u.dtype)
