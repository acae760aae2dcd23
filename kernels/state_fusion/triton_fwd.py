"""State fusion, read-out, LayerNorm and gate in one pass.

A program owns some tokens with all their channels. The 25 distinct taps of the three dilated
kernels are read at clamped positions, which is the border's replication.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import as_tokens, next_power_of_2, tiling
from kernels.triton_math import clamp, normalise_rows, tile_tokens


@triton.jit
def _add_tap(acc, own_ptr, weight_ptr, move, channel, E, EXACT: tl.constexpr):
    """Add one tap: the values `move` tokens away, times the tap's weights.

    The weights are read as a (tokens, channels) tensor, so that every thread reads those of its own
    channels: a (channels,) tensor would go through shared memory, with two barriers a tap.
    """
    at = own_ptr + (move * E)[:, None]
    weight_at = weight_ptr + channel[None, :] + (move * 0)[:, None]
    if EXACT:
        value, weight = tl.load(at), tl.load(weight_at)
    else:
        inside = (channel < E)[None, :]
        value = tl.load(at, mask=inside, other=0.0)
        weight = tl.load(weight_at, mask=inside, other=0.0)
    return acc + value.to(tl.float32) * weight


@triton.jit
def _fuse(own_ptr, weight_ptr, row, col, channel, H, W, E, EXACT: tl.constexpr):
    """(tokens, channels) float32: the weighted sum of the 25 neighbours of each token."""
    acc = tl.zeros([row.shape[0], channel.shape[0]], dtype=tl.float32)
    for j in tl.static_range(7):
        # -5, -3, -1, 0, 1, 3, 5
        shift = (2 * j - 5) if j < 3 else (2 * j - 7 if j > 3 else 0)
        move = clamp(col + shift, W) - col
        acc = _add_tap(acc, own_ptr, weight_ptr + j * E, move, channel, E, EXACT)
    # a loop over rows and not over all taps: more tiles in flight would not fit the registers
    for i in range(6):
        reach = 1 + 2 * (i // 2)
        down = (clamp(row + reach * (2 * (i % 2) - 1), H) - row) * W
        for j in tl.static_range(3):
            move = down + clamp(col + (j - 1) * reach, W) - col
            taps_ptr = weight_ptr + (7 + 3 * i + j) * E
            acc = _add_tap(acc, own_ptr, taps_ptr, move, channel, E, EXACT)
    return acc


@triton.jit(do_not_specialize=["T", "H", "W"])
def _gated_fusion_kernel(
    state_ptr,  # (T, E)
    u_ptr,  # (T, E)
    p_ptr,  # (T, P); the last column is C
    gate_ptr,  # (T, E), tokens `gate_stride` apart
    weight_ptr,  # (25, E) float32
    D_ptr,  # (E,) float32
    norm_weight_ptr,  # (E,) float32
    norm_bias_ptr,  # (E,) float32
    out_ptr,  # (T, E)
    T,
    H,
    W,
    E,
    P,
    gate_stride,
    eps,
    EXACT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_E: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    first, local, row, col, valid = tile_tokens(tl.program_id(0), T, H, W, BLOCK_T, TILE_W)
    channel = tl.arange(0, BLOCK_E)
    inside = channel < E
    mask = valid[:, None] & inside[None, :]
    here = first * E + (local * E)[:, None] + channel[None, :]
    await_predecessor(OVERLAP)
    y = _fuse(state_ptr + here, weight_ptr, row, col, channel, H, W, E, EXACT)
    readout = tl.load(p_ptr + (first + local) * P + (P - 1)).to(tl.float32)
    u = tl.load(u_ptr + here, mask=mask, other=0.0).to(tl.float32)
    y = y * readout[:, None] + u * tl.load(D_ptr + channel, mask=inside, other=0.0)[None, :]
    y = normalise_rows(y, inside, E, eps)
    y = y * tl.load(norm_weight_ptr + channel, mask=inside, other=0.0)[None, :]
    y += tl.load(norm_bias_ptr + channel, mask=inside, other=0.0)[None, :]
    there = first * gate_stride + (local * gate_stride)[:, None] + channel[None, :]
    y *= tl.load(gate_ptr + there, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + here, y.to(out_ptr.dtype.element_ty), mask=mask)


def gated_fusion_triton(
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
    """Contract of `gated_fusion_ref`.

    Args:
        projected: (B, H, W, R + 2): dt low-rank, B, C; its last column is the read-out C.
        gate: (B, H, W, E), a slice of the channels of a wider map is fine.
        weight: (25, E) float32, of `merge_taps`.
        D, norm_weight, norm_bias: (E,) float32.
    """
    state, u, projected = state.contiguous(), u.contiguous(), projected.contiguous()
    gate, gate_stride = as_tokens(gate)
    B, H, W, E = state.shape
    T = B * H * W
    out = torch.empty_like(state)
    block_t, warps = _tiles(T, E)
    tile_w, num_tiles = tiling(B, H, W, block_t)
    block_e = max(16, next_power_of_2(E))
    _gated_fusion_kernel[(num_tiles,)](
        state,
        u,
        projected,
        gate,
        weight,
        D,
        norm_weight,
        norm_bias,
        out,
        T,
        H,
        W,
        E,
        projected.shape[-1],
        gate_stride,
        norm_eps,
        EXACT=block_e == E,
        BLOCK_T=block_t,
        TILE_W=tile_w,
        BLOCK_E=block_e,
        num_warps=warps,
        num_stages=1,
        **overlapping(),
    )
    return out


def _tiles(T: int, E: int) -> tuple[int, int]:
    """Tokens of a tile, and warps."""
    padded = next_power_of_2(E)
    if T * padded <= 132 * 8192:
        # few tokens: fewer values a thread
        return max(1, 1024 // padded), 4
    # sixteen values a thread: more would not leave enough warps to hide the loads
    return (4, 8) if padded >= 1024 else (max(1, 2048 // padded), 4)
