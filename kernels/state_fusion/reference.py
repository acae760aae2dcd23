"""Structure-aware state fusion as the paper writes it: the truth, slow on purpose."""

from typing import Final

import torch
from torch import Tensor

DILATIONS: Final = (1, 3, 5)


def state_fusion_ref(state: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Fuse the states of neighbouring positions with three dilated depthwise correlations.

    out(p) = sum_k scale_k sum_(i, j in {-1, 0, 1}) weight_k[c, i, j] state(p + d_k (i, j)),
    d = (1, 3, 5); positions outside the map take the value of the nearest one inside.

    Args:
        state: (B, H, W, C).
        weight: (K, C, 3, 3), one 3x3 kernel per dilation and channel, correlation order.
        scale: (K,).

    Returns:
        (B, H, W, C), dtype of `state`; sums run in float32, or float64 for float64 input.

    Source: arXiv:2410.15091v2, section 3.2 (structure-aware state fusion). The border is
    replicated, as in the published implementation; zero padding changes every map's rim.
    """
    compute = torch.promote_types(state.dtype, torch.float32)
    H, W = state.shape[1:3]
    rows = torch.arange(H, device=state.device)
    cols = torch.arange(W, device=state.device)
    out = torch.zeros(state.shape, dtype=compute, device=state.device)
    for kernel, factor, dilation in zip(weight, scale, DILATIONS, strict=True):
        for i in range(3):
            r = (rows + (i - 1) * dilation).clamp(0, H - 1)
            for j in range(3):
                c = (cols + (j - 1) * dilation).clamp(0, W - 1)
                tap = (factor * kernel[:, i, j]).to(compute)
                out = out + tap * state[:, r][:, :, c].to(compute)
    return out.to(state.dtype)
