"""State fusion, read-out, LayerNorm and gate of few tokens: a program owns one, with all channels.

All 25 taps are on their way at once, their weights while the kernel before still runs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import as_tokens, next_power_of_2
from kernels.shared_memory import prefer_shared
from kernels.triton_math import clamp, token_position

# of a lane, four; with more, its taps and states would not fit its registers
_MAX_CHANNELS = 1024
# above, another kernel shares what neighbours have in common
_FEW_VALUES = 1 << 19


@triton.jit
def _load_taps(weight_ptr, channel, inside, E):
    """25 (channels,) float32, in the order of `merge_taps`."""
    taps = ()
    for i in tl.static_range(25):
        taps = taps + (tl.load(weight_ptr + i * E + channel, mask=inside, other=0.0),)
    return taps


@triton.jit
def _load_states(state_ptr, token, channel, inside, H, W, E):
    """The 25 (channels,) states that the taps reach; border positions repeat."""
    row, col = token_position(token, H, W)
    own_ptr = state_ptr + token.to(tl.int64) * E + channel
    states = ()
    for j in tl.static_range(7):
        # -5, -3, -1, 0, 1, 3, 5
        shift = (2 * j - 5) if j < 3 else (2 * j - 7 if j > 3 else 0)
        move = clamp(col + shift, W) - col
        states = states + (tl.load(own_ptr + move * E, mask=inside, other=0.0),)
    for i in tl.static_range(6):
        reach = 1 + 2 * (i // 2)
        down = (clamp(row + reach * (2 * (i % 2) - 1), H) - row) * W
        for j in tl.static_range(3):
            move = down + clamp(col + (j - 1) * reach, W) - col
            states = states + (tl.load(own_ptr + move * E, mask=inside, other=0.0),)
    return states


@prefer_shared
@triton.jit(do_not_specialize=["H", "W"])
def _gated_fusion_token_kernel(
    state_ptr,  # (T, E)
    u_ptr,  # (T, E)
    p_ptr,  # (T, P); the last column is C
    gate_ptr,  # (T, E), tokens `gate_stride` apart
    weight_ptr,  # (25, E) float32
    D_ptr,  # (E,) float32
    norm_weight_ptr,  # (E,) float32
    norm_bias_ptr,  # (E,) float32
    out_ptr,  # (T, E)
    H,
    W,
    P,
    gate_stride,
    eps,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    token = tl.program_id(0)
    channel = tl.arange(0, BLOCK_E)
    inside = (channel < E) | (E == BLOCK_E)
    taps = _load_taps(weight_ptr, channel, inside, E)
    skip = tl.load(D_ptr + channel, mask=inside, other=0.0)
    gain = tl.load(norm_weight_ptr + channel, mask=inside, other=0.0)
    bias = tl.load(norm_bias_ptr + channel, mask=inside, other=0.0)
    await_predecessor(OVERLAP)
    here = token.to(tl.int64) * E + channel
    states = _load_states(state_ptr, token, channel, inside, H, W, E)
    readout = tl.load(p_ptr + token.to(tl.int64) * P + (P - 1)).to(tl.float32)
    u = tl.load(u_ptr + here, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(
        gate_ptr + token.to(tl.int64) * gate_stride + channel, mask=inside, other=0.0
    ).to(tl.float32)
    y = states[0].to(tl.float32) * taps[0]
    for i in tl.static_range(1, 25):
        y += states[i].to(tl.float32) * taps[i]
    y = y * readout + u * skip
    mean = tl.sum(y, axis=0) * (1.0 / E)
    centred = tl.where(inside, y - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) * (1.0 / E) + eps)
    y = (centred * scale * gain + bias) * gate
    tl.store(out_ptr + here, y.to(out_ptr.dtype.element_ty), mask=inside)


def is_for_tokens(state: Tensor) -> bool:
    """Whether this kernel is the fastest for a (B, H, W, E) map: few tokens, many channels."""
    return 512 <= state.shape[3] <= _MAX_CHANNELS and state.numel() <= _FEW_VALUES


def gated_fusion_token_triton(
    state: Tensor,
    u: Tensor,
    projected: Tensor,
    gate: Tensor,
    weight: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
) -> Tensor:
    """Contract and arguments of `gated_fusion_triton`."""
    state, u, projected = state.contiguous(), u.contiguous(), projected.contiguous()
    gate, gate_stride = as_tokens(gate)
    B, H, W, E = state.shape
    out = torch.empty_like(state)
    block_e = next_power_of_2(E)
    _gated_fusion_token_kernel[(B * H * W,)](
        state,
        u,
        projected,
        gate,
        weight,
        D,
        norm_weight,
        norm_bias,
        out,
        H,
        W,
        projected.shape[-1],
        gate_stride,
        norm_eps,
        E=E,
        BLOCK_E=block_e,
        num_warps=max(1, min(8, block_e // 128)),
        **overlapping(),
    )
    return out
