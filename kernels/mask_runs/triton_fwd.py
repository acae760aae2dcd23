"""Edges of pasted instance masks on the GPU: the masks themselves are never written.

Counted once per mask and column, then found again and written to the place that the counts' prefix
sum gives. Both passes walk down a block of columns inside the mask's box, a tile at a time.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping

BLOCK_X: Final = 32
BLOCK_Y: Final = 32


@triton.jit
def _grid_position(pixel, low, high, SIZE: tl.constexpr):
    """Where a pixel's centre lies in the mask's grid, rounded step by step as the reference does.

    Far outside is as good as just outside, and fits an int32.
    """
    normalised = tl.div_rn(pixel.to(tl.float32) + 0.5 - low, high - low) * 2.0 - 1.0
    position = (normalised + 1.0) * (SIZE * 0.5) - 0.5
    return tl.minimum(tl.maximum(position, -2.0), SIZE + 1.0)


@triton.jit
def _is_set(mask_ptr, row, column, x1, y1, x2, y2, SIZE: tl.constexpr):
    """(rows, columns) bool: the pasted mask."""
    x = _grid_position(column, x1, x2, SIZE)
    y = _grid_position(row, y1, y2, SIZE)
    west = tl.floor(x)
    north = tl.floor(y)
    to_west = (x - west)[None, :]
    to_north = (y - north)[:, None]
    to_east = 1.0 - to_west
    to_south = 1.0 - to_north
    i = north.to(tl.int32)[:, None]
    j = west.to(tl.int32)[None, :]
    corner = mask_ptr + i * SIZE + j
    upper = (i >= 0) & (i < SIZE)
    lower = (i >= -1) & (i < SIZE - 1)
    left = (j >= 0) & (j < SIZE)
    right = (j >= -1) & (j < SIZE - 1)
    value = tl.load(corner, mask=upper & left, other=0.0) * (to_east * to_south)
    value += tl.load(corner + 1, mask=upper & right, other=0.0) * (to_west * to_south)
    value += tl.load(corner + SIZE, mask=lower & left, other=0.0) * (to_east * to_north)
    value += tl.load(corner + SIZE + 1, mask=lower & right, other=0.0) * (to_west * to_north)
    return value >= 0.5


@triton.jit
def _span(low, high, limit):
    """Pixels that an interval can touch, one more on each side, inside 0..limit."""
    first = tl.maximum(tl.floor(low).to(tl.int32) - 1, 0)
    return first, tl.minimum(tl.ceil(high).to(tl.int32) + 1, limit)


# every request has its own sizes: compiled once all the same
@triton.jit(do_not_specialize=["columns", "capacity"])
def _edges_kernel(
    masks_ptr,  # (M, SIZE, SIZE) float32 probabilities
    boxes_ptr,  # (M, 4) float32
    sizes_ptr,  # (M, 2) int32
    valid_ptr,  # (M,) uint8
    counts_ptr,  # (M, columns) int32, written by the first pass
    ends_ptr,  # (M, columns) int32, inclusive prefix sum of the counts, read by the second pass
    edges_ptr,  # (capacity,) int32, written by the second pass
    columns,
    capacity,
    WRITE: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_predecessor(OVERLAP)
    mask = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_X + tl.arange(0, BLOCK_X)
    height = tl.load(sizes_ptr + mask * 2)
    width = tl.load(sizes_ptr + mask * 2 + 1)
    x1 = tl.load(boxes_ptr + mask * 4)
    y1 = tl.load(boxes_ptr + mask * 4 + 1)
    x2 = tl.load(boxes_ptr + mask * 4 + 2)
    y2 = tl.load(boxes_ptr + mask * 4 + 3)
    solid = (tl.load(valid_ptr + mask) != 0) & (x2 > x1) & (y2 > y1)
    left, right = _span(x1, x2, width)
    top, bottom = _span(y1, y2, height)
    exists = column < columns
    covered = (column >= left) & (column < right) & solid
    some = tl.sum(covered.to(tl.int32), axis=0) > 0
    masks_ptr += mask * SIZE * SIZE
    slot = mask * columns + column
    found = tl.zeros([BLOCK_X], dtype=tl.int32)
    if WRITE:
        found += tl.load(ends_ptr + slot - 1, mask=exists & (slot > 0), other=0)
    # one row more than the span: where a run reaches the bottom, its end lies there
    stop = tl.where(some, bottom + 1, top)
    for start in range(top, stop, BLOCK_Y):
        row = start + tl.arange(0, BLOCK_Y)
        here = _is_set(masks_ptr, row, column, x1, y1, x2, y2, SIZE) & (row < bottom)[:, None]
        above = _is_set(masks_ptr, row - 1, column, x1, y1, x2, y2, SIZE) & (row > top)[:, None]
        edge = (here != above) & (row <= bottom)[:, None] & covered[None, :]
        number = edge.to(tl.int32)
        if WRITE:
            place = found[None, :] + tl.cumsum(number, axis=0) - number
            position = column[None, :] * height + row[:, None]
            tl.store(edges_ptr + place, position, mask=edge & (place < capacity))
        found += tl.sum(number, axis=0)
    if not WRITE:
        tl.store(counts_ptr + slot, found, mask=exists)


def mask_edges_triton(
    logits: Tensor, boxes: Tensor, sizes: Tensor, valid: Tensor, *, columns: int, capacity: int
) -> tuple[Tensor, Tensor]:
    """Contract of `mask_edges_ref`; scratch of 8 bytes per mask and column."""
    count, side = logits.shape[:2]
    counts = torch.empty((count, columns), dtype=torch.int32, device=logits.device)
    edges = torch.empty(capacity, dtype=torch.int32, device=logits.device)
    probabilities = logits.contiguous().sigmoid()

    def launch(ends: Tensor, *, write: bool) -> None:
        _edges_kernel[(count, triton.cdiv(columns, BLOCK_X))](
            masks_ptr=probabilities,
            boxes_ptr=boxes.contiguous(),
            sizes_ptr=sizes.contiguous(),
            valid_ptr=valid.contiguous().view(torch.uint8),
            counts_ptr=counts,
            ends_ptr=ends,
            edges_ptr=edges,
            columns=columns,
            capacity=capacity,
            WRITE=write,
            SIZE=side,
            BLOCK_X=BLOCK_X,
            BLOCK_Y=BLOCK_Y,
            # a multiply-add rounds once where the reference rounds twice
            enable_fp_fusion=False,
            **overlapping(),
        )

    launch(counts, write=False)
    ends = counts.view(-1).cumsum(0, dtype=torch.int32).view(count, columns)
    launch(ends, write=True)
    return edges, ends[:, -1].contiguous()
