"""The selective scan on the GPU for state size 1, forward and backward.

One program walks along the sequence of one image for a block of channels, a tile of tokens at a
time: inside the tile an associative scan, between tiles a carry in registers. Step sizes, decays
and drives exist only in registers; the state and all sums are float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_L = 64
BLOCK_D = 32


@triton.jit
def _combine(decay_left, state_left, decay_right, state_right):
    """Two consecutive pieces of h = decay h + drive as one piece."""
    return decay_left * decay_right, decay_right * state_left + state_right


@triton.jit
def _step_size(raw, SOFTPLUS: tl.constexpr):
    """Softplus, the identity above 20; what lies above is kept out of the exponential.

    log(1 + y) by Kahan's quotient: step sizes near 0.001 would lose four digits otherwise.
    """
    if SOFTPLUS:
        y = tl.exp(tl.minimum(raw, 20.0))
        shifted = 1.0 + y
        rounded = shifted - 1.0
        quotient = y / tl.where(rounded == 0.0, 1.0, rounded)
        log1p = tl.where(rounded == 0.0, y, tl.log(shifted) * quotient)
        raw = tl.where(raw > 20.0, raw, log1p)
    return raw


@triton.jit
def _scan_fwd_kernel(
    u_ptr,  # (B, L, D)
    delta_ptr,  # (B, L, D)
    A_ptr,  # (D,)
    B_ptr,  # (B, L)
    bias_ptr,  # (D,)
    out_ptr,  # (B, L, D)
    L,
    D,
    SOFTPLUS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    A = tl.load(A_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    row = tl.arange(0, BLOCK_L)
    carry = tl.zeros([BLOCK_D], dtype=tl.float32)
    for start in range(0, L, BLOCK_L):
        token = start + row
        valid = (token < L)[:, None] & inside[None, :]
        offset = (image * L + token)[:, None] * D + channel[None, :]
        u = tl.load(u_ptr + offset, mask=valid, other=0.0).to(tl.float32)
        raw = tl.load(delta_ptr + offset, mask=valid, other=0.0).to(tl.float32) + bias[None, :]
        b = tl.load(B_ptr + image * L + token, mask=token < L, other=0.0).to(tl.float32)
        dt = _step_size(raw, SOFTPLUS)
        reach, states = tl.associative_scan(
            (tl.exp(dt * A[None, :]), dt * u * b[:, None]), 0, _combine
        )
        states += reach * carry[None, :]
        tl.store(out_ptr + offset, states.to(out_ptr.dtype.element_ty), mask=valid)
        carry = tl.sum(tl.where((row == BLOCK_L - 1)[:, None], states, 0.0), axis=0)


@triton.jit
def _scan_bwd_kernel(
    grad_ptr,  # (B, L, D)
    states_ptr,  # (B, L, D)
    u_ptr,  # (B, L, D)
    delta_ptr,  # (B, L, D)
    A_ptr,  # (D,)
    B_ptr,  # (B, L)
    bias_ptr,  # (D,)
    d_u_ptr,  # (B, L, D)
    d_delta_ptr,  # (B, L, D)
    d_A_ptr,  # (B, D) float32, summed over the batch by the caller
    d_B_ptr,  # (B, D / BLOCK_D, L) float32, summed over the blocks by the caller
    d_bias_ptr,  # (B, D) float32
    L,
    D,
    SOFTPLUS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    channel = block * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    A = tl.load(A_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    row = tl.arange(0, BLOCK_L)
    carry = tl.zeros([BLOCK_D], dtype=tl.float32)
    d_A = tl.zeros([BLOCK_D], dtype=tl.float32)
    d_bias = tl.zeros([BLOCK_D], dtype=tl.float32)
    num_tiles = tl.cdiv(L, BLOCK_L)
    for i in range(0, num_tiles):
        token = (num_tiles - 1 - i) * BLOCK_L + row
        valid = (token < L)[:, None] & inside[None, :]
        follows = (token + 1 < L)[:, None] & inside[None, :]
        offset = (image * L + token)[:, None] * D + channel[None, :]
        # g_t = grad_t + decay_(t+1) g_(t+1): the decay of the token after this one
        raw_next = tl.load(delta_ptr + offset + D, mask=follows, other=0.0).to(tl.float32)
        dt_next = _step_size(raw_next + bias[None, :], SOFTPLUS)
        decay_next = tl.where(follows, tl.exp(dt_next * A[None, :]), 1.0)
        grad = tl.load(grad_ptr + offset, mask=valid, other=0.0).to(tl.float32)
        reach, g = tl.associative_scan((decay_next, grad), 0, _combine, reverse=True)
        g += reach * carry[None, :]
        carry = tl.sum(tl.where((row == 0)[:, None], g, 0.0), axis=0)

        precedes = valid & (token > 0)[:, None]
        previous = tl.load(states_ptr + offset - D, mask=precedes, other=0.0).to(tl.float32)
        u = tl.load(u_ptr + offset, mask=valid, other=0.0).to(tl.float32)
        raw = tl.load(delta_ptr + offset, mask=valid, other=0.0).to(tl.float32) + bias[None, :]
        b = tl.load(B_ptr + image * L + token, mask=token < L, other=0.0).to(tl.float32)
        dt = _step_size(raw, SOFTPLUS)
        d_exponent = g * previous * tl.exp(dt * A[None, :])
        d_dt = d_exponent * A[None, :] + g * b[:, None] * u
        if SOFTPLUS:
            d_dt *= 1.0 - tl.exp(-dt)
        d_dt = tl.where(valid, d_dt, 0.0)
        d_A += tl.sum(tl.where(valid, d_exponent * dt, 0.0), axis=0)
        d_bias += tl.sum(d_dt, axis=0)
        d_b = tl.sum(tl.where(valid, g * dt * u, 0.0), axis=1)
        d_u = g * b[:, None] * dt
        tl.store(d_u_ptr + offset, d_u.to(d_u_ptr.dtype.element_ty), mask=valid)
        tl.store(d_delta_ptr + offset, d_dt.to(d_delta_ptr.dtype.element_ty), mask=valid)
        partial = (image * tl.num_programs(1) + block) * L + token
        tl.store(d_B_ptr + partial, d_b, mask=token < L)
    tl.store(d_A_ptr + image * D + channel, d_A, mask=inside)
    tl.store(d_bias_ptr + image * D + channel, d_bias, mask=inside)


def supports(u: Tensor, A: Tensor) -> bool:
    """Whether the kernels cover this case: state size 1, at most float32."""
    return A.shape[1] == 1 and u.dtype != torch.float64


def selective_scan_triton(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Contract of `selective_scan_ref`, state size 1."""
    batch, length, dim = u.shape
    u, delta, B = u.contiguous(), delta.contiguous(), B.contiguous()
    bias = torch.zeros_like(A[:, 0]) if delta_bias is None else delta_bias.contiguous()
    out = torch.empty_like(u)
    _scan_fwd_kernel[(batch, triton.cdiv(dim, BLOCK_D))](
        u_ptr=u,
        delta_ptr=delta,
        A_ptr=A.contiguous(),
        B_ptr=B,
        bias_ptr=bias,
        out_ptr=out,
        L=length,
        D=dim,
        SOFTPLUS=delta_softplus,
        BLOCK_L=BLOCK_L,
        BLOCK_D=BLOCK_D,
    )
    return out.unsqueeze(-1)


def selective_scan_backward_triton(
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Contract of `selective_scan_backward`, state size 1."""
    batch, length, dim = u.shape
    u, delta, B = u.contiguous(), delta.contiguous(), B.contiguous()
    bias = torch.zeros_like(A[:, 0]) if delta_bias is None else delta_bias.contiguous()
    blocks = triton.cdiv(dim, BLOCK_D)
    d_u, d_delta = torch.empty_like(u), torch.empty_like(delta)
    d_A, d_bias = (u.new_empty((batch, dim), dtype=torch.float32) for _ in range(2))
    d_B = u.new_empty((batch, blocks, length), dtype=torch.float32)
    _scan_bwd_kernel[(batch, blocks)](
        grad_ptr=grad.contiguous(),
        states_ptr=states.contiguous(),
        u_ptr=u,
        delta_ptr=delta,
        A_ptr=A.contiguous(),
        B_ptr=B,
        bias_ptr=bias,
        d_u_ptr=d_u,
        d_delta_ptr=d_delta,
        d_A_ptr=d_A,
        d_B_ptr=d_B,
        d_bias_ptr=d_bias,
        L=length,
        D=dim,
        SOFTPLUS=delta_softplus,
        BLOCK_L=BLOCK_L,
        BLOCK_D=BLOCK_D,
    )
    return (
        d_u,
        d_delta,
        d_A.sum(0).unsqueeze(1).to(A.dtype),
        d_B.sum(1).unsqueeze(2).to(B.dtype),
        None if delta_bias is None else d_bias.sum(0).to(delta_bias.dtype),
    )
