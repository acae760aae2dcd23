"""State fusion, read-out, LayerNorm, gate and, for narrow maps, the output projection in one pass.

A program owns some tokens with all their channels. The 25 distinct taps of the three dilated
kernels are read with clamped positions, which is the border's replication.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import as_tokens, is_precise, next_power_of_2, tiling
from kernels.selective_scan.triton_fwd import load_projected
from kernels.triton_math import normalise_rows, tile_tokens


@triton.jit
def _clamp(x, limit):
    return tl.minimum(tl.maximum(x, 0), limit - 1)


@triton.jit
def _fuse(state_ptr, weight_ptr, local, row, col, channel, valid, inside, H, W, E):
    """(tokens, channels) float32: the weighted sum of the 25 neighbours of each token."""
    mask = valid[:, None] & inside[None, :]
    acc = tl.zeros([local.shape[0], channel.shape[0]], dtype=tl.float32)
    for j in tl.static_range(7):
        # -5, -3, -1, 0, 1, 3, 5
        move = _clamp(col + ((2 * j - 5) if j < 3 else (2 * j - 7 if j > 3 else 0)), W) - col
        value = tl.load(
            state_ptr + ((local + move) * E)[:, None] + channel[None, :], mask=mask, other=0.0
        )
        weight = tl.load(weight_ptr + j * E + channel, mask=inside, other=0.0)
        acc += value.to(tl.float32) * weight[None, :]
    # a loop over rows and not over all taps: more tiles in flight would not fit the registers
    for i in range(6):
        reach = 1 + 2 * (i // 2)
        down = (_clamp(row + reach * (2 * (i % 2) - 1), H) - row) * W
        for j in tl.static_range(3):
            move = down + _clamp(col + (j - 1) * reach, W) - col
            value = tl.load(
                state_ptr + ((local + move) * E)[:, None] + channel[None, :], mask=mask, other=0.0
            )
            weight = tl.load(weight_ptr + (7 + 3 * i + j) * E + channel, mask=inside, other=0.0)
            acc += value.to(tl.float32) * weight[None, :]
    return acc


@triton.jit(do_not_specialize=["T", "H", "W"])
def _gated_fusion_kernel(
    state_ptr,  # (T, E)
    u_ptr,  # (T, E)
    p_ptr,  # (SPLITS, T, P) float32; the last column is C
    gate_ptr,  # (T, E), tokens `gate_stride` apart
    weight_ptr,  # (25, E) float32
    D_ptr,  # (E,) float32
    norm_weight_ptr,  # (E,) float32
    norm_bias_ptr,  # (E,) float32
    project_ptr,  # (C, E); read with PROJECT
    residual_ptr,  # (T, C); read with PROJECT
    out_ptr,  # (T, E), or (T, C) with PROJECT
    T,
    H,
    W,
    E,
    P,
    C,
    gate_stride,
    eps,
    SPLITS: tl.constexpr,
    PROJECT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first, local, row, col, valid = tile_tokens(tl.program_id(0), T, H, W, BLOCK_T, TILE_W)
    channel = tl.arange(0, BLOCK_E)
    inside = channel < E
    mask = valid[:, None] & inside[None, :]
    here = local[:, None] * E + channel[None, :]
    y = _fuse(state_ptr + first * E, weight_ptr, local, row, col, channel, valid, inside, H, W, E)
    readout = load_projected(p_ptr + first * P, local, valid, P - 1, T, P, SPLITS)[:, None]
    u = tl.load(u_ptr + first * E + here, mask=mask, other=0.0).to(tl.float32)
    y = y * readout + u * tl.load(D_ptr + channel, mask=inside, other=0.0)[None, :]
    y = normalise_rows(y, inside, E, eps)
    y = y * tl.load(norm_weight_ptr + channel, mask=inside, other=0.0)[None, :]
    y += tl.load(norm_bias_ptr + channel, mask=inside, other=0.0)[None, :]
    gate_ptr += first * gate_stride
    gate = tl.load(gate_ptr + local[:, None] * gate_stride + channel[None, :], mask=mask, other=0.0)
    y = (y * gate.to(tl.float32)).to(state_ptr.dtype.element_ty)
    if PROJECT:
        column = tl.arange(0, BLOCK_C)
        exists = column < C
        project = tl.load(
            project_ptr + column[None, :] * E + channel[:, None],
            mask=exists[None, :] & inside[:, None],
            other=0.0,
        )
        offset = first * C + local[:, None] * C + column[None, :]
        wanted = valid[:, None] & exists[None, :]
        out = tl.dot(y, project, input_precision="ieee")
        out += tl.load(residual_ptr + offset, mask=wanted, other=0.0).to(tl.float32)
        tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=wanted)
    else:
        tl.store(out_ptr + first * E + here, y, mask=mask)


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
    *,
    project: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Contract of `gated_fusion_ref`, and with `project` of the output projection behind it.

    Args:
        projected: (splits, B, H, W, R + 2) float32, as `conv_projection_triton` returns it; its
            last column is the read-out C.
        gate: (B, H, W, E), a slice of the channels of a wider map is fine.
        weight: (25, E) float32, of `merge_taps`.
        D, norm_weight, norm_bias: (E,) float32.
        project: (C, E), dtype of state; then the result is residual + gated project^T.
        residual: (B, H, W, C); needed with `project`.

    Raises:
        ValueError: a projection without residual.
    """
    state, u = state.contiguous(), u.contiguous()
    gate, gate_stride = as_tokens(gate)
    B, H, W, E = state.shape
    T = B * H * W
    if (project is None) != (residual is None):
        raise ValueError("project and residual come together")
    C = E if project is None else project.shape[0]
    out = torch.empty((B, H, W, C), dtype=state.dtype, device=state.device)
    block_t, warps = _tiles(T, E, project is not None, state.dtype)
    tile_w, num_tiles = tiling(B, H, W, block_t)
    _gated_fusion_kernel[(num_tiles,)](
        state,
        u,
        projected,
        gate,
        weight,
        D,
        norm_weight,
        norm_bias,
        out if project is None else project,
        out if residual is None else residual.contiguous(),
        out,
        T,
        H,
        W,
        E,
        projected.shape[-1],
        C,
        gate_stride,
        norm_eps,
        SPLITS=projected.shape[0],
        PROJECT=project is not None,
        BLOCK_T=block_t,
        TILE_W=tile_w,
        BLOCK_E=max(16, next_power_of_2(E)),
        BLOCK_C=max(16, next_power_of_2(C)),
        num_warps=warps,
        num_stages=1,
    )
    return out


def _tiles(T: int, E: int, is_projecting: bool, dtype: torch.dtype) -> tuple[int, int]:
    """Tokens of a tile, and warps."""
    padded = next_power_of_2(E)
    if is_projecting:
        block_t = 16 if dtype == torch.float32 else 64
    else:
        block_t = max(1, 8192 // padded)
    block_t = max(16 if is_projecting else 1, min(block_t, next_power_of_2(triton.cdiv(T, 132))))
    return block_t, min(16, max(4, block_t * padded // 1024))
