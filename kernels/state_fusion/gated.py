"""State fusion with read-out, norm and gate: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.state_fusion.reference import state_fusion_ref


def gated_fusion_ref(
    state: Tensor,
    u: Tensor,
    readout: Tensor,
    gate: Tensor,
    weight: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
) -> Tensor:
    """Gated, normalised observation norm(C * fuse(state) + D * u) * gate.

    Args:
        state: (B, H, W, E).
        u: (B, H, W, E).
        readout: (B, H, W, 1), C of the paper.
        gate: (B, H, W, E), SiLU(z) already applied.
        weight: (3, E, 3, 3), the dilations' scales folded in.
        D: (E,).
        norm_weight: (E,) LayerNorm's gain.
        norm_bias: (E,).

    Returns:
        (B, H, W, E), dtype of state; float32 (or float64) inside.

    Source: arXiv:2410.15091v2, section 3.2 and figure 3.
    """
    compute = torch.promote_types(state.dtype, torch.float32)
    fused = state_fusion_ref(
        state.to(compute), weight.to(compute), torch.ones(3, dtype=compute, device=state.device)
    )
    y = readout.to(compute) * fused + D.to(compute) * u.to(compute)
    y = F.layer_norm(y, y.shape[-1:], norm_weight.to(compute), norm_bias.to(compute), norm_eps)
    return (y * gate.to(compute)).to(state.dtype)


def merge_taps(weight: Tensor) -> Tensor:
    """The 25 distinct taps of the three dilated kernels in the order the GPU kernel reads them.

    Args:
        weight: (3, E, 3, 3) for dilations 1, 3, 5, scales folded in.

    Returns:
        (25, E) float32: the middle row at -5, -3, -1, 0, 1, 3, 5 (the three middle taps are one),
        then for each dilation the row above and the row below, each left, middle, right.
    """
    w = weight.float()
    middle = [w[2, :, 1, 0], w[1, :, 1, 0], w[0, :, 1, 0], w[:, :, 1, 1].sum(0)]
    middle += [w[0, :, 1, 2], w[1, :, 1, 2], w[2, :, 1, 2]]
    others = [w[k, :, i, j] for k in range(3) for i in (0, 2) for j in range(3)]
    return torch.stack(middle + others).contiguous()
