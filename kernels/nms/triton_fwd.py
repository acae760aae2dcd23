"""Greedy non-maximum suppression on the GPU without a word to the host.

The first kernel writes, for each valid box, one bit per later box that it would suppress. The
second reads every bit once: one program per group walks along the blocks of 64 boxes, settles a
block among itself and passes what the kept boxes suppress on to the blocks after it.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import next_power_of_2

# one block is one 64-bit word of the matrix
BLOCK: Final = 64


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _corners(box_ptr, exists):
    x1 = tl.load(box_ptr, mask=exists, other=0.0)
    y1 = tl.load(box_ptr + 1, mask=exists, other=0.0)
    x2 = tl.load(box_ptr + 2, mask=exists, other=0.0)
    y2 = tl.load(box_ptr + 3, mask=exists, other=0.0)
    return x1, y1, x2, y2


@triton.jit
def _overlap_kernel(
    boxes_ptr,  # (G, N, 4) float32
    valid_ptr,  # (G, N) uint8
    classes_ptr,  # (G, N) int32
    threshold_ptr,  # (G,) float32
    words_ptr,  # (G, N, W) int64
    N,
    W,
    HAS_CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One tile: 64 possible suppressors, 64 boxes at or after them."""
    await_predecessor(OVERLAP)
    group = tl.program_id(0).to(tl.int64)
    bit = tl.arange(0, BLOCK)
    row = tl.program_id(1) * BLOCK + bit
    column = tl.program_id(2) * BLOCK + bit
    valid = tl.load(valid_ptr + group * N + row, mask=row < N, other=0) != 0
    if (tl.program_id(2) >= tl.program_id(1)) & (tl.sum(valid.to(tl.int32)) > 0):
        exists = column < N
        ax1, ay1, ax2, ay2 = _corners(boxes_ptr + (group * N + row) * 4, valid)
        bx1, by1, bx2, by2 = _corners(boxes_ptr + (group * N + column) * 4, exists)
        # (columns, rows): the sum over a row's columns then stays inside a thread
        width = tl.minimum(ax2[None, :], bx2[:, None]) - tl.maximum(ax1[None, :], bx1[:, None])
        height = tl.minimum(ay2[None, :], by2[:, None]) - tl.maximum(ay1[None, :], by1[:, None])
        shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
        area_a = (ax2 - ax1) * (ay2 - ay1)
        area_b = (bx2 - bx1) * (by2 - by1)
        union = area_a[None, :] + area_b[:, None] - shared
        threshold = tl.load(threshold_ptr + group)
        # the plain division is approximate on the GPU
        iou = tl.div_rn(shared, tl.where(union > 0.0, union, 1.0))
        hit = (iou > threshold) & (union > 0.0) & (column[:, None] > row[None, :])
        if HAS_CLASSES:
            class_a = tl.load(classes_ptr + group * N + row, mask=valid, other=-1)
            class_b = tl.load(classes_ptr + group * N + column, mask=exists, other=-1)
            hit = hit & (class_a[None, :] == class_b[:, None])
        # the bits are disjoint: their sum is their union
        word = tl.sum(hit.to(tl.int64) << bit[:, None].to(tl.int64), axis=0)
        tl.store(words_ptr + (group * N + row) * W + tl.program_id(2), word, mask=valid)


@triton.jit
def _resolve_kernel(
    words_ptr,  # (G, N, W) int64
    valid_ptr,  # (G, N) uint8
    keep_ptr,  # (G, N) uint8
    N,
    W,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_predecessor(OVERLAP)
    group = tl.program_id(0).to(tl.int64)
    every = tl.arange(0, BLOCK_N)
    listed = tl.load(valid_ptr + group * N + every, mask=every < N, other=0) != 0
    # most of a group is empty most of the time: nothing after the last valid box is walked
    blocks = tl.cdiv(tl.max(tl.where(listed, every + 1, 0), axis=0), BLOCK)
    tl.store(
        keep_ptr + group * N + every,
        tl.zeros([BLOCK_N], dtype=tl.uint8),
        mask=(every >= blocks * BLOCK) & (every < N),
    )
    bit = tl.arange(0, BLOCK)
    shift = bit.to(tl.int64)
    word = tl.arange(0, BLOCK_W)
    removed = tl.zeros([BLOCK_W], dtype=tl.int64)
    for block in range(0, blocks):
        row = block * BLOCK + bit
        valid = tl.load(valid_ptr + group * N + row, mask=row < N, other=0) != 0
        own = words_ptr + (group * N + row) * W
        inner = tl.load(own + block, mask=valid, other=0)
        later = valid[:, None] & (word > block)[None, :] & (word < W)[None, :]
        outer = tl.load(own[:, None] + word[None, :], mask=later, other=0)
        before = tl.sum(tl.where(word == block, removed, 0), axis=0)
        alive = tl.sum(valid.to(tl.int64) << shift, axis=0) & ~before
        # "kept unless a kept box of the block suppresses it", repeated until nothing changes:
        # round n settles at least the n-th box, so at most 64 rounds, in practice a few
        keep = alive
        changed = alive != 0
        while changed:
            hit = tl.reduce(tl.where(((keep >> shift) & 1) != 0, inner, 0), 0, _either)
            settled = alive & ~hit
            changed = settled != keep
            keep = settled
        kept = ((keep >> shift) & 1) != 0
        removed = removed | tl.reduce(tl.where(kept[:, None], outer, 0), 0, _either)
        tl.store(keep_ptr + group * N + row, kept.to(tl.uint8), mask=row < N)


def batched_nms_triton(
    boxes: Tensor, valid: Tensor, threshold: Tensor, classes: Tensor | None = None
) -> Tensor:
    """Contract of `batched_nms_ref`; two launches, N^2 / 8 bytes of scratch per group."""
    groups, count = valid.shape
    words_per_box = triton.cdiv(count, BLOCK)
    listed = valid.contiguous().view(torch.uint8)
    words = torch.empty((groups, count, words_per_box), dtype=torch.int64, device=boxes.device)
    keep = torch.empty((groups, count), dtype=torch.uint8, device=boxes.device)
    _overlap_kernel[(groups, words_per_box, words_per_box)](
        boxes_ptr=boxes.contiguous(),
        valid_ptr=listed,
        classes_ptr=listed if classes is None else classes.contiguous(),
        threshold_ptr=threshold.contiguous(),
        words_ptr=words,
        N=count,
        W=words_per_box,
        HAS_CLASSES=classes is not None,
        BLOCK=BLOCK,
        # a multiply-add rounds once where the reference rounds twice
        enable_fp_fusion=False,
        **overlapping(),
    )
    block_w = next_power_of_2(words_per_box)
    _resolve_kernel[(groups,)](
        words_ptr=words,
        valid_ptr=listed,
        keep_ptr=keep,
        N=count,
        W=words_per_box,
        BLOCK_N=next_power_of_2(count),
        BLOCK_W=block_w,
        BLOCK=BLOCK,
        # one warp needs no barrier in its reductions; above 16 words its registers run out
        num_warps=1 if block_w <= 16 else 4,
        **overlapping(),
    )
    return keep.view(torch.bool)
