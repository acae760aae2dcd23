"""The selective scan as a chunked linear recurrence: no Python loop over tokens, differentiable.

The sequence is cut into chunks of T tokens. All chunks are scanned side by side (T vectorised
steps), the carries pass from chunk to chunk (L / T steps), and one multiply-add brings each carry
into its chunk. With T near sqrt(L / 2) a map of 67,200 tokens takes about 730 vector operations.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SOFTPLUS_THRESHOLD = 20.0


def linear_scan(decay: Tensor, drive: Tensor) -> Tensor:
    """h_t = decay_t * h_(t-1) + drive_t along dimension 1, h_0 = 0.

    Exact in the sense that only products of decays occur, never their reciprocals: decays that
    underflow to zero are harmless.

    Args:
        decay: (B, L, M), 0 <= decay <= 1 (any finite value works).
        drive: (B, L, M), same dtype.

    Returns:
        (B, L, M), contiguous.
    """
    batch, length, width = drive.shape
    chunk = max(1, math.ceil(math.sqrt(length / 2)))
    num_chunks = -(-length // chunk)
    pad = num_chunks * chunk - length
    shape = (batch, num_chunks, chunk, width)
    decay = F.pad(decay, (0, 0, 0, pad)).reshape(shape)
    # both are written in place below and must not alias the caller's tensors
    states = (
        F.pad(drive, (0, 0, 0, pad)).reshape(shape).clone(memory_format=torch.contiguous_format)
    )
    reach = decay.clone(memory_format=torch.contiguous_format)
    for t in range(1, chunk):
        states[:, :, t].addcmul_(decay[:, :, t], states[:, :, t - 1])
        reach[:, :, t].mul_(reach[:, :, t - 1])
    carries = torch.zeros_like(states[:, :, 0])
    for i in range(1, num_chunks):
        torch.addcmul(
            states[:, i - 1, -1], reach[:, i - 1, -1], carries[:, i - 1], out=carries[:, i]
        )
    states.addcmul_(reach, carries.unsqueeze(2))
    return states.view(batch, num_chunks * chunk, width)[:, :length].contiguous()


def _step_sizes(delta: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    dt = delta.to(torch.promote_types(delta.dtype, torch.float32))
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype)
    return F.softplus(dt, threshold=SOFTPLUS_THRESHOLD) if delta_softplus else dt


def selective_scan_chunked(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Same contract as `selective_scan_ref`."""
    batch, length, dim = u.shape
    state = A.shape[1]
    dt = _step_sizes(delta, delta_bias, delta_softplus)
    decay = torch.exp(dt.unsqueeze(-1) * A.to(dt.dtype))
    drive = (dt * u.to(dt.dtype)).unsqueeze(-1) * B.to(dt.dtype).unsqueeze(2)
    states = linear_scan(
        decay.view(batch, length, dim * state), drive.view(batch, length, dim * state)
    )
    return states.view(batch, length, dim, state).to(u.dtype)


def selective_scan_backward(
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of `selective_scan_chunked` with respect to u, delta, A, B and delta_bias.

    g_t = grad_t + decay_(t+1) g_(t+1) runs backwards through the same `linear_scan`;
    then d(drive_t) = g_t and d(decay_t) = g_t h_(t-1).

    Args:
        grad: (B, L, D, N) gradient of the states.
        states: (B, L, D, N) what the forward pass returned.
        u: the forward pass's input, as are the rest.
    """
    batch, length, dim = u.shape
    flat = (batch, length, dim * A.shape[1])
    dt = _step_sizes(delta, delta_bias, delta_softplus)
    compute = dt.dtype
    A_, B_, u_ = A.to(compute), B.to(compute).unsqueeze(2), u.to(compute)
    decay = torch.exp(dt.unsqueeze(-1) * A_)
    following = F.pad(decay[:, 1:], (0, 0, 0, 0, 0, 1)).reshape(flat)
    g = linear_scan(following.flip(1), grad.to(compute).reshape(flat).flip(1)).flip(1)
    g = g.view(grad.shape)
    previous = F.pad(states[:, :-1].to(compute), (0, 0, 0, 0, 1, 0))
    d_exponent = g * previous * decay
    through_b = (g * B_).sum(-1)
    d_dt = (d_exponent * A_).sum(-1) + through_b * u_
    d_u = through_b * dt
    d_A = (d_exponent * dt.unsqueeze(-1)).sum((0, 1))
    d_B = (g * (dt * u_).unsqueeze(-1)).sum(2)
    if delta_softplus:
        # softplus' = 1 - exp(-softplus); equals sigmoid without needing the pre-activation
        d_dt = d_dt * -torch.expm1(-dt)
    d_bias = None if delta_bias is None else d_dt.sum((0, 1)).to(delta_bias.dtype)
    return d_u.to(u.dtype), d_dt.to(delta.dtype), d_A.to(A.dtype), d_B.to(B.dtype), d_bias
