"""State fusion, read-out, LayerNorm and gate in one pass.

A program owns some strips of tokens with all their channels. The 25 distinct taps of the three
dilated kernels are read at clamped positions, which is the border's replication.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import as_tokens, next_power_of_2
from kernels.strips import WIDTH, clamp, locate_strips, num_strips
from kernels.triton_math import normalise_rows


@triton.jit
def _load_neighbour(state_ptr, line, col, channel, W, E, SHIFT: tl.constexpr, EXACT: tl.constexpr):
    """(strips, channels) float32: SHIFT columns beside the strip's start, border replicated."""
    move = clamp(col + SHIFT, W) - col
    at = state_ptr + ((line + move) * E)[:, None] + channel[None, :]
    if EXACT:
        value = tl.load(at)
    else:
        value = tl.load(at, mask=(channel < E)[None, :], other=0.0)
    return value.to(tl.float32)


@triton.jit
def _load_taps(weight_ptr, channel, E, COUNT: tl.constexpr):
    """COUNT taps, each (1, channels)."""
    taps = ()
    for k in tl.static_range(COUNT):
        taps = taps + (tl.load(weight_ptr + k * E + channel, mask=channel < E, other=0.0)[None, :],)
    return taps


@triton.jit
def _fuse_row(
    sums,
    state_ptr,
    weight_ptr,
    line,
    col,
    channel,
    W,
    E,
    REACH: tl.constexpr,
    IS_MIDDLE: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Add one row's taps: -REACH, 0, REACH; of the strip's own row all seven of the dilations.

    Neighbour by neighbour: each is added to the tokens that it touches and then forgotten, since
    all neighbours of a strip would not fit the registers.
    """
    taps = _load_taps(weight_ptr, channel, E, 7 if IS_MIDDLE else 3)
    for k in tl.static_range(WIDTH + 2 * REACH):
        value = _load_neighbour(state_ptr, line, col, channel, W, E, k - REACH, EXACT)
        updated = ()
        for j in tl.static_range(WIDTH):
            # the neighbour is k - REACH - j columns beside token j
            total = sums[j]
            if k - REACH - j == 0:
                total += value * taps[3 if IS_MIDDLE else 1]
            if k - REACH - j == -REACH:
                total += value * taps[0]
            if k - REACH - j == REACH:
                total += value * taps[6 if IS_MIDDLE else 2]
            if IS_MIDDLE:
                if k - REACH - j == -3:
                    total += value * taps[1]
                if k - REACH - j == -1:
                    total += value * taps[2]
                if k - REACH - j == 1:
                    total += value * taps[4]
                if k - REACH - j == 3:
                    total += value * taps[5]
            updated = updated + (total,)
        sums = updated
    return sums


@triton.jit(do_not_specialize=["B", "H", "W"])
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
    B,
    H,
    W,
    E,
    P,
    gate_stride,
    eps,
    EXACT: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    first, token, row, col, exists = locate_strips(B, H, W, BLOCK_S)
    channel = tl.arange(0, BLOCK_E)
    inside = channel < E
    state_ptr += first * E
    zero = tl.zeros([BLOCK_S, BLOCK_E], dtype=tl.float32)
    sums = (zero, zero, zero, zero, zero, zero, zero)
    sums = _fuse_row(sums, state_ptr, weight_ptr, token, col, channel, W, E, 5, True, EXACT)
    for k in tl.static_range(3):
        for i in tl.static_range(2):
            line = token + (clamp(row + (2 * i - 1) * (2 * k + 1), H) - row) * W
            taps_ptr = weight_ptr + (7 + 6 * k + 3 * i) * E
            sums = _fuse_row(
                sums, state_ptr, taps_ptr, line, col, channel, W, E, 2 * k + 1, False, EXACT
            )
    D = tl.load(D_ptr + channel, mask=inside, other=0.0)[None, :]
    norm_weight = tl.load(norm_weight_ptr + channel, mask=inside, other=0.0)[None, :]
    norm_bias = tl.load(norm_bias_ptr + channel, mask=inside, other=0.0)[None, :]
    for j in tl.static_range(WIDTH):
        wanted = exists & (col + j < W)
        mask = wanted[:, None] & inside[None, :]
        here = ((token + j) * E)[:, None] + channel[None, :]
        readout = tl.load(p_ptr + (first + token + j) * P + (P - 1), mask=wanted, other=0.0)
        u = tl.load(u_ptr + first * E + here, mask=mask, other=0.0).to(tl.float32)
        y = sums[j] * readout.to(tl.float32)[:, None] + u * D
        y = normalise_rows(y, inside, E, eps) * norm_weight + norm_bias
        there = ((token + j) * gate_stride)[:, None] + channel[None, :]
        gate = tl.load(gate_ptr + first * gate_stride + there, mask=mask, other=0.0)
        y *= gate.to(tl.float32)
        tl.store(out_ptr + first * E + here, y.to(out_ptr.dtype.element_ty), mask=mask)


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
    out = torch.empty_like(state)
    strips = num_strips(B, H, W)
    block_s, warps = _tiles(strips, E)
    _gated_fusion_kernel[(triton.cdiv(strips, block_s),)](
        state,
        u,
        projected,
        gate,
        weight,
        D,
        norm_weight,
        norm_bias,
        out,
        B,
        H,
        W,
        E,
        projected.shape[-1],
        gate_stride,
        norm_eps,
        EXACT=E == max(16, next_power_of_2(E)),
        BLOCK_S=block_s,
        BLOCK_E=max(16, next_power_of_2(E)),
        num_warps=warps,
        num_stages=1,
    )
    return out


def _tiles(strips: int, E: int) -> tuple[int, int]:
    """Strips of a tile, and warps."""
    padded = next_power_of_2(E)
    block_s = max(1, 1024 // padded)
    return block_s, max(1, min(8, block_s * padded // 256))
