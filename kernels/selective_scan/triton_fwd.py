"""The selective scan for inference: state size 1, step sizes from their low-rank form.

A tile is `CHUNKS` chunks of `STEPS` consecutive tokens. Inside a chunk the recurrence runs step by
step, all chunks and channels side by side, in registers; the chunks' ends are joined by one
associative scan over `CHUNKS` rows, and one multiply-add brings each chunk the state before it.
So a token costs two multiply-adds beyond its own step, not a scan's shuffles. The low-rank product
is R multiply-adds a token in the layout that the recurrence needs: on tensor cores it would be free,
but moving its result into that layout cost more than the whole recurrence (docs/performance.md).

Long maps in small batches are cut into segments: a first launch computes what each segment does to
a state (its decay, and its own state from zero), a second one starts each segment from the
combination of all before it. Nothing is approximated, and no program waits for another.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import is_precise, next_power_of_2
from kernels.triton_math import exponential, softplus

_MAX_SEGMENTS = 64


@triton.jit
def _join(decay_left, state_left, ahead_left, before_left, decay, state, ahead, before):
    """Two runs of chunks as one: (decay, state) of h -> decay h + state over the whole run, and
    (ahead, before) of the same map over all but its last chunk."""
    return (
        decay_left * decay,
        decay * state_left + state,
        decay_left * ahead,
        ahead * state_left + before,
    )


@triton.jit
def _compose(decay_left, state_left, decay_right, state_right):
    """h -> decay h + state, the left one first."""
    return decay_left * decay_right, decay_right * state_left + state_right


@triton.jit
def load_projected(p_ptr, token, valid, column, T, P, SPLITS: tl.constexpr):
    """(tokens,) float32: one column of the projection, the sum of its partial sums."""
    total = tl.load(p_ptr + token * P + column, mask=valid, other=0.0)
    for i in tl.static_range(1, SPLITS):
        total += tl.load(p_ptr + i * T * P + token * P + column, mask=valid, other=0.0)
    return total


@triton.jit
def _step(
    u_ptr,
    p_ptr,
    dt_weight_ptr,
    dt_bias,
    A,
    token,
    valid,
    channel,
    inside,
    D,
    P,
    total_tokens,
    R: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISE: tl.constexpr,
):
    """Decay and drive of one token of every chunk; tokens past the end change nothing."""
    raw = dt_bias[None, :]
    for r in tl.static_range(R):
        low_rank = load_projected(p_ptr, token, valid, r, total_tokens, P, SPLITS)
        weight = tl.load(dt_weight_ptr + r * D + channel, mask=inside, other=0.0)
        raw = raw + low_rank[:, None] * weight[None, :]
    B = load_projected(p_ptr, token, valid, R, total_tokens, P, SPLITS)
    exists = valid[:, None] & inside[None, :]
    u = tl.load(u_ptr + token[:, None] * D + channel[None, :], mask=exists, other=0.0)
    dt = tl.where(valid[:, None], softplus(raw, PRECISE), 0.0)
    return exponential(dt * A[None, :], PRECISE), dt * (B[:, None] * u.to(tl.float32))


@triton.jit
def _enter(decay_ptr, state_ptr, image, channel, inside, D, BLOCK_S: tl.constexpr):
    """(channels,) the state before this segment: what the earlier ones make of zero."""
    index = tl.arange(0, BLOCK_S)
    earlier = (index < tl.program_id(1))[:, None] & inside[None, :]
    offset = (image * tl.num_programs(1) + index[:, None]) * D + channel[None, :]
    decays = tl.load(decay_ptr + offset, mask=earlier, other=1.0)
    states = tl.load(state_ptr + offset, mask=earlier, other=0.0)
    _, joined = tl.associative_scan((decays, states), 0, _compose)
    return tl.sum(tl.where((index == BLOCK_S - 1)[:, None], joined, 0.0), axis=0)


@triton.jit(do_not_specialize=["L", "total_tokens", "segment_tokens"])
def _scan_kernel(
    u_ptr,  # (B, L, D)
    p_ptr,  # (SPLITS, B, L, P) float32: dt low-rank, B, C
    dt_weight_ptr,  # (R, D) float32
    dt_bias_ptr,  # (D,) float32
    A_ptr,  # (D,) float32
    out_ptr,  # (B, L, D)
    decay_ptr,  # (B, segments, D) float32
    state_ptr,  # (B, segments, D) float32
    L,
    D,
    P,
    total_tokens,
    segment_tokens,
    R: tl.constexpr,
    SPLITS: tl.constexpr,
    SUMMARISE: tl.constexpr,
    RESUME: tl.constexpr,
    BLOCK_S: tl.constexpr,
    PRECISE: tl.constexpr,
    CHUNKS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    image = tl.program_id(2).to(tl.int64)
    dt_bias = tl.load(dt_bias_ptr + channel, mask=inside, other=0.0)
    A = tl.load(A_ptr + channel, mask=inside, other=0.0)
    chunk = tl.arange(0, CHUNKS)
    is_last = (chunk == CHUNKS - 1)[:, None]
    whole = tl.full([BLOCK_D], 1.0, dtype=tl.float32)
    carry = tl.zeros([BLOCK_D], dtype=tl.float32)
    if RESUME:
        carry = _enter(decay_ptr, state_ptr, image, channel, inside, D, BLOCK_S)
    begin = tl.program_id(1) * segment_tokens
    end = tl.minimum(begin + segment_tokens, L)
    for start in range(begin, end, CHUNKS * STEPS):
        # 64-bit up to the tile, 32-bit inside it
        first = image * L + start
        state = tl.zeros([CHUNKS, BLOCK_D], dtype=tl.float32)
        decay = tl.full([CHUNKS, BLOCK_D], 1.0, dtype=tl.float32)
        kept_states = ()
        kept_decays = ()
        for step in tl.static_range(STEPS):
            token = chunk * STEPS + step
            own, drive = _step(
                u_ptr + first * D,
                p_ptr + first * P,
                dt_weight_ptr,
                dt_bias,
                A,
                token,
                start + token < end,
                channel,
                inside,
                D,
                P,
                total_tokens,
                R,
                SPLITS,
                PRECISE,
            )
            state = own * state + drive
            decay = decay * own
            kept_states = kept_states + (state,)
            kept_decays = kept_decays + (decay,)
        nothing = tl.zeros([CHUNKS, BLOCK_D], dtype=tl.float32)
        joined_decay, joined_state, ahead, before = tl.associative_scan(
            (decay, state, nothing + 1.0, nothing), 0, _join
        )
        entering = ahead * carry[None, :] + before
        if not SUMMARISE:
            for step in tl.static_range(STEPS):
                token = chunk * STEPS + step
                out = kept_states[step] + kept_decays[step] * entering
                tl.store(
                    out_ptr + first * D + token[:, None] * D + channel[None, :],
                    out.to(out_ptr.dtype.element_ty),
                    mask=(start + token < end)[:, None] & inside[None, :],
                )
        leaving = joined_state + joined_decay * carry[None, :]
        carry = tl.sum(tl.where(is_last, leaving, 0.0), axis=0)
        if SUMMARISE:
            whole *= tl.sum(tl.where(is_last, joined_decay, 0.0), axis=0)
    if SUMMARISE:
        offset = (image * tl.num_programs(1) + tl.program_id(1)) * D + channel
        tl.store(decay_ptr + offset, whole, mask=inside)
        tl.store(state_ptr + offset, carry, mask=inside)


def low_rank_scan_triton(
    u: Tensor, projected: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor
) -> Tensor:
    """Contract of `low_rank_scan_ref`, with the projection as partial sums.

    Args:
        projected: (splits, B, H, W, R + 2) float32, as `conv_projection_triton` returns it.
        dt_weight: (R, D) float32.
        dt_bias: (D,) float32.
        A: (D,) float32.
    """
    u = u.contiguous()
    B, H, W, D = u.shape
    L = H * W
    out = torch.empty_like(u)
    chunks, steps, block_d, segments, warps = _plan(B, L, D, dt_weight.shape[0])
    tile = chunks * steps
    segment_tokens = triton.cdiv(triton.cdiv(L, segments), tile) * tile
    segments = triton.cdiv(L, segment_tokens)
    summaries = torch.empty((2, B, segments, D), dtype=torch.float32, device=u.device)

    def launch(*, summarise: bool, resume: bool) -> None:
        _scan_kernel[(triton.cdiv(D, block_d), segments, B)](
            u,
            projected,
            dt_weight,
            dt_bias,
            A,
            out,
            summaries[0],
            summaries[1],
            L,
            D,
            projected.shape[-1],
            B * L,
            segment_tokens,
            R=dt_weight.shape[0],
            SPLITS=projected.shape[0],
            SUMMARISE=summarise,
            RESUME=resume,
            BLOCK_S=max(2, next_power_of_2(segments)),
            PRECISE=is_precise(u.dtype),
            CHUNKS=chunks,
            STEPS=steps,
            BLOCK_D=block_d,
            num_warps=warps,
            num_stages=1,
        )

    if segments > 1:
        launch(summarise=True, resume=False)
    launch(summarise=False, resume=segments > 1)
    return out


def _plan(B: int, L: int, D: int, R: int) -> tuple[int, int, int, int, int]:
    """Chunks and steps of a tile, channels of a program, segments of a map, warps."""
    block_d = min(32, max(16, next_power_of_2(D)))
    # few idle tokens in the last tile: 7 divides 49, 784 and 3136; fewer values a thread where the
    # low-rank weights take many registers
    chunks, steps = (8, 7) if L <= 64 or R > 8 else (16, 7)
    tiles = triton.cdiv(L, chunks * steps)
    programs = B * triton.cdiv(D, block_d)
    if tiles < 8 or programs >= 264:
        return chunks, steps, block_d, 1, 4
    segments = min(_MAX_SEGMENTS, triton.cdiv(528, programs), triton.cdiv(tiles, 2))
    return chunks, steps, block_d, segments, 4
