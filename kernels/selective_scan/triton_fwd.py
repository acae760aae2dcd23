"""The selective scan for inference: state size 1, step sizes from their low-rank form.

A tile is `CHUNKS` chunks of `STEPS` consecutive tokens. Inside a chunk the recurrence runs step by
step, all chunks and channels side by side, in registers; the chunks' ends are joined by one
associative scan over `CHUNKS` rows, and one multiply-add brings each chunk the state before it.
So a token costs two multiply-adds beyond its own step, not a scan's shuffles. The step sizes of a
whole tile come from one product on the tensor cores, whose result is then dealt out to the steps:
one product a step would wait for shared memory at every token.

Long maps in small batches are cut into segments: a first launch computes what each segment does to
a state (its decay, and its own state from zero), a second one starts each segment from the
combination of all before it. Nothing is approximated, and no program waits for another.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import is_precise, next_power_of_2
from kernels.shared_memory import prefer_shared
from kernels.triton_math import LN2, LOG2E, step_and_decay

# tokens of a chunk, as many as `_split_steps` makes
STEPS = 4
_MAX_SEGMENTS = 64
# maps that leave most of the chip idle
_FEW_VALUES = 1 << 19


@triton.jit
def _join(decay_left, state_left, ahead_left, before_left, decay, state, ahead, before):
    """Two runs of chunks as one.

    (decay, state) is the map h -> decay h + state over the whole run, (ahead, before) that over
    all but its last chunk.
    """
    return (
        decay_left * decay,
        decay * state_left + state,
        decay_left * ahead,
        ahead * state_left + before,
    )


@triton.jit
def _compose(decay_left, state_left, decay_right, state_right):
    """Maps h -> decay h + state, the left one first."""
    return decay_left * decay_right, decay_right * state_left + state_right


@triton.jit
def _split_steps(x, CHUNKS: tl.constexpr, BLOCK_D: tl.constexpr):
    """(4 CHUNKS, channels), a chunk's four tokens together -> four (CHUNKS, channels)."""
    x = tl.permute(tl.reshape(x, [CHUNKS, 2, 2, BLOCK_D]), (0, 3, 1, 2))
    even, odd = tl.split(x)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _step_sizes(
    p_ptr, exists, dt_weight, scaled_bias, P: tl.constexpr, R: tl.constexpr, PRECISE: tl.constexpr
):
    """(tokens, channels) step sizes before their softplus, as `step_and_decay` wants them."""
    every = tl.arange(0, exists.shape[0])
    rank = tl.arange(0, dt_weight.shape[0])
    low_rank = tl.load(
        p_ptr + every[:, None] * P + rank[None, :],
        mask=exists[:, None] & (rank < R)[None, :],
        other=0.0,
    )
    raws = tl.dot(low_rank, dt_weight, input_precision="ieee")
    if not PRECISE:
        raws *= LOG2E
    return raws + scaled_bias[None, :]


@triton.jit
def _step(raw, u_ptr, B_ptr, valid, inside, A, PRECISE: tl.constexpr):
    """Decay and drive of one token of every chunk; nobody reads what tokens past the end do."""
    B = tl.load(B_ptr, mask=valid, other=0.0).to(tl.float32)
    if not PRECISE:
        B *= LN2
    u = tl.load(u_ptr, mask=valid[:, None] & inside[None, :], other=0.0).to(tl.float32)
    dt, decay = step_and_decay(raw, A[None, :], PRECISE)
    return decay, dt * (B[:, None] * u)


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


@prefer_shared
@triton.jit(do_not_specialize=["L", "segment_tokens"])
def _scan_kernel(
    u_ptr,  # (B, L, D)
    p_ptr,  # (B, L, P): dt low-rank, B, C
    dt_weight_ptr,  # (R, D)
    dt_bias_ptr,  # (D,) float32
    A_ptr,  # (D,) float32
    out_ptr,  # (B, L, D)
    decay_ptr,  # (B, segments, D) float32
    state_ptr,  # (B, segments, D) float32
    L,
    segment_tokens,
    D: tl.constexpr,
    P: tl.constexpr,
    R: tl.constexpr,
    SUMMARISE: tl.constexpr,
    RESUME: tl.constexpr,
    BLOCK_S: tl.constexpr,
    PRECISE: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    STEPS: tl.constexpr = 4
    channel = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (channel < D) | (D % BLOCK_D == 0)
    image = tl.program_id(2).to(tl.int64)
    rank = tl.arange(0, BLOCK_R)
    dt_weight = tl.load(
        dt_weight_ptr + rank[:, None] * D + channel[None, :],
        mask=(rank < R)[:, None] & inside[None, :],
        other=0.0,
    )
    bias = tl.load(dt_bias_ptr + channel, mask=inside, other=0.0)
    if not PRECISE:
        bias *= LOG2E
    A = tl.load(A_ptr + channel, mask=inside, other=0.0)
    await_predecessor(OVERLAP)
    chunk = tl.arange(0, CHUNKS)
    is_last = (chunk == CHUNKS - 1)[:, None]
    whole = tl.full([BLOCK_D], 1.0, dtype=tl.float32)
    carry = tl.zeros([BLOCK_D], dtype=tl.float32)
    if RESUME:
        carry = _enter(decay_ptr, state_ptr, image, channel, inside, D, BLOCK_S)
    begin = tl.program_id(1) * segment_tokens
    end = tl.minimum(begin + segment_tokens, L)
    at = (chunk * (STEPS * D))[:, None] + channel[None, :]
    for start in range(begin, end, CHUNKS * STEPS):
        # 64-bit up to the tile, 32-bit inside it
        first = image * L + start
        exists = (start + tl.arange(0, CHUNKS * STEPS) < end) | WHOLE
        raws = _step_sizes(p_ptr + first * P, exists, dt_weight, bias, P, R, PRECISE)
        raws = _split_steps(raws, CHUNKS, BLOCK_D)
        state = tl.zeros([CHUNKS, BLOCK_D], dtype=tl.float32)
        decay = tl.full([CHUNKS, BLOCK_D], 1.0, dtype=tl.float32)
        kept_states = ()
        kept_decays = ()
        for step in tl.static_range(STEPS):
            own, drive = _step(
                raws[step],
                u_ptr + first * D + at + step * D,
                p_ptr + first * P + chunk * (STEPS * P) + (step * P + R),
                (start + chunk * STEPS + step < end) | WHOLE,
                inside,
                A,
                PRECISE,
            )
            state = own * state + drive
            decay = decay * own if step > 0 else own
            kept_states = kept_states + (state,)
            kept_decays = kept_decays + (decay,)
        nothing = tl.zeros([CHUNKS, BLOCK_D], dtype=tl.float32)
        joined_decay, joined_state, ahead, before = tl.associative_scan(
            (decay, state, nothing + 1.0, nothing), 0, _join
        )
        entering = ahead * carry[None, :] + before
        if not SUMMARISE:
            for step in tl.static_range(STEPS):
                out = kept_states[step] + kept_decays[step] * entering
                tl.store(
                    out_ptr + first * D + at + step * D,
                    out.to(out_ptr.dtype.element_ty),
                    mask=((start + chunk * STEPS + step < end) | WHOLE)[:, None] & inside[None, :],
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
    """Contract of `low_rank_scan_ref`.

    Args:
        projected: (B, H, W, R + 2), dtype of u.
        dt_weight: (R, D), dtype of u.
        dt_bias: (D,) float32.
        A: (D,) float32.
    """
    u, projected = u.contiguous(), projected.contiguous()
    B, H, W, D = u.shape
    L = H * W
    out = torch.empty_like(u)
    chunks, block_d, segments, warps, registers = _plan(B, L, D)
    tile = chunks * STEPS
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
            segment_tokens,
            D=D,
            P=projected.shape[-1],
            R=dt_weight.shape[0],
            SUMMARISE=summarise,
            RESUME=resume,
            BLOCK_S=max(2, next_power_of_2(segments)),
            PRECISE=is_precise(u.dtype),
            WHOLE=L % tile == 0,
            CHUNKS=chunks,
            BLOCK_D=block_d,
            BLOCK_R=max(16, next_power_of_2(dt_weight.shape[0])),
            num_warps=warps,
            num_stages=1,
            maxnreg=registers,
            **overlapping(),
        )

    if segments > 1:
        launch(summarise=True, resume=False)
    launch(summarise=False, resume=segments > 1)
    return out


def _plan(B: int, L: int, D: int) -> tuple[int, int, int, int, int]:
    """Chunks of a tile, channels of a program, segments of a map, warps, registers of a thread."""
    block_d = min(32, max(16, next_power_of_2(D)))
    tiles = triton.cdiv(L, 16 * STEPS)
    if B * L * D <= _FEW_VALUES and L <= 64 * STEPS:
        # a whole map in one tile: nothing runs after something else
        chunks = max(8, next_power_of_2(triton.cdiv(L, STEPS)))
        return chunks, 16, 1, chunks // 8, 128
    if L <= 64 or (D > 512 and tiles < 8):
        return 8, block_d, 1, 2, 255
    programs = B * triton.cdiv(D, block_d)
    if tiles < 8 or programs >= 264:
        return 16, block_d, 1, 4, 128
    segments = min(_MAX_SEGMENTS, triton.cdiv(528, programs), triton.cdiv(tiles, 2))
    return 16, block_d, segments, 4, 128
