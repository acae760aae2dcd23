"""The selective scan as the recurrence is written in the paper: the truth, slow on purpose."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """States of the discretised selective state space model, one scan over the raster order.

    dt_t = softplus(delta_t + delta_bias)
    h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t,  h_0 = 0

    The read-out y = C h + D u happens later, after the states were fused.

    Args:
        u: (B, L, D) input.
        delta: (B, L, D) step sizes before bias and softplus.
        A: (D, N) float32, negative.
        B: (B, L, N) input projection, shared by all channels.
        delta_bias: (D,) or None.
        delta_softplus: apply softplus (the identity above 20).

    Returns:
        (B, L, D, N) states in the dtype of `u`. The recurrence runs in float32, or in float64
        when `u` is float64.

    Source: arXiv:2410.15091v2, section 3.2 (state transition); Mamba, arXiv:2312.00752,
    algorithm 2.
    """
    compute = torch.promote_types(u.dtype, torch.float32)
    dt = delta.to(compute)
    if delta_bias is not None:
        dt = dt + delta_bias.to(compute)
    if delta_softplus:
        dt = F.softplus(dt)
    decay = torch.exp(dt.unsqueeze(-1) * A.to(compute))
    drive = (dt * u.to(compute)).unsqueeze(-1) * B.to(compute).unsqueeze(2)
    state = torch.zeros_like(drive[:, 0])
    states = []
    for t in range(u.shape[1]):
        state = decay[:, t] * state + drive[:, t]
        states.append(state)
    return torch.stack(states, dim=1).to(u.dtype)
