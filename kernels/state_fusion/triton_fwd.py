"""State fusion with the read-out in one pass: y = C * fuse(h) + D * u.

A program owns some strips of tokens and a block of channels. The 25 distinct taps of the three
dilated kernels are read at clamped positions, which is the border's replication.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import next_power_of_2
from kernels.strips import WIDTH, clamp, locate_strips, num_strips


@triton.jit
def _load_taps(weight_ptr, strip, channel, inside, E, COUNT: tl.constexpr):
    """COUNT taps, each (strips, channels): every thread reads those of its own channels.

    A (channels,) tensor would be loaded once and go to its readers through shared memory, with two
    barriers a tap.
    """
    taps = ()
    for k in tl.static_range(COUNT):
        at = weight_ptr + k * E + channel[None, :] + (strip * 0)[:, None]
        taps = taps + (tl.load(at, mask=inside[None, :], other=0.0),)
    return taps


@triton.jit
def _fuse_row(
    sums,
    line_ptr,
    taps,
    col,
    inside,
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
    for k in tl.static_range(WIDTH + 2 * REACH):
        at = line_ptr + ((clamp(col + (k - REACH), W) - col) * E)[:, None]
        if EXACT:
            value = tl.load(at).to(tl.float32)
        else:
            value = tl.load(at, mask=inside[None, :], other=0.0).to(tl.float32)
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
def _fused_readout_kernel(
    state_ptr,  # (T, E)
    u_ptr,  # (T, E)
    p_ptr,  # (T, P); the last column is C
    weight_ptr,  # (25, E) float32
    D_ptr,  # (E,) float32
    out_ptr,  # (T, E)
    B,
    H,
    W,
    E,
    P,
    EXACT: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    first, token, row, col, exists = locate_strips(B, H, W, BLOCK_S)
    channel = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    inside = channel < E
    own_ptr = state_ptr + first * E + (token * E)[:, None] + channel[None, :]
    zero = tl.zeros([BLOCK_S, BLOCK_E], dtype=tl.float32)
    sums = (zero, zero, zero, zero, zero, zero, zero)
    taps = _load_taps(weight_ptr, token, channel, inside, E, 7)
    sums = _fuse_row(sums, own_ptr, taps, col, inside, W, E, 5, True, EXACT)
    for k in tl.static_range(3):
        for i in tl.static_range(2):
            down = (clamp(row + (2 * i - 1) * (2 * k + 1), H) - row) * W
            line_ptr = own_ptr + (down * E)[:, None]
            taps = _load_taps(weight_ptr + (7 + 6 * k + 3 * i) * E, token, channel, inside, E, 3)
            sums = _fuse_row(sums, line_ptr, taps, col, inside, W, E, 2 * k + 1, False, EXACT)
    D = tl.load(D_ptr + channel, mask=inside, other=0.0)[None, :]
    for j in tl.static_range(WIDTH):
        wanted = exists & (col + j < W)
        mask = wanted[:, None] & inside[None, :]
        here = first * E + ((token + j) * E)[:, None] + channel[None, :]
        readout = tl.load(p_ptr + (first + token + j) * P + (P - 1), mask=wanted, other=0.0)
        u = tl.load(u_ptr + here, mask=mask, other=0.0).to(tl.float32)
        y = sums[j] * readout.to(tl.float32)[:, None] + u * D
        tl.store(out_ptr + here, y.to(out_ptr.dtype.element_ty), mask=mask)


def fused_readout_triton(
    state: Tensor, u: Tensor, projected: Tensor, weight: Tensor, D: Tensor
) -> Tensor:
    """Contract of `fused_readout_ref`.

    Args:
        projected: (B, H, W, R + 2): dt low-rank, B, C; its last column is the read-out C.
        weight: (25, E) float32, of `merge_taps`.
        D: (E,) float32.
    """
    state, u, projected = state.contiguous(), u.contiguous(), projected.contiguous()
    B, H, W, E = state.shape
    out = torch.empty_like(state)
    strips = num_strips(B, H, W)
    block_s, block_e, warps, registers = _tiles(strips, E)
    _fused_readout_kernel[(triton.cdiv(strips, block_s), triton.cdiv(E, block_e))](
        state,
        u,
        projected,
        weight,
        D,
        out,
        B,
        H,
        W,
        E,
        projected.shape[-1],
        EXACT=E % block_e == 0,
        BLOCK_S=block_s,
        BLOCK_E=block_e,
        num_warps=warps,
        num_stages=1,
        maxnreg=registers,
    )
    return out


def _tiles(strips: int, E: int) -> tuple[int, int, int, int]:
    """Strips and channels of a tile, warps, registers of a thread."""
    block_e = min(64, next_power_of_2(E))
    if strips * E <= 132 * 512:
        return max(1, 128 // block_e), block_e, 1, 255
    return 8, block_e, max(1, block_e // 16), 168
