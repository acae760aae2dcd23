"""RoIAlign on the GPU: one launch for all boxes of all levels, channels contiguous.

A bin's samples form a grid, so a cell's weight is a product of one weight per axis. Each cell
under a bin is therefore read once, where sample by sample a bin of 3 x 3 cells reads 36 values for
16 cells. One program makes one row of bins of one box; it walks over 4 x 4 cells at a time.
"""

from collections.abc import Sequence
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import next_power_of_2

# cells per step and axis: what a bin of three samples touches
STEP: Final = 4


@triton.jit
def _first_and_last(start, length, samples, limit):
    """Range of the cells that the samples of a bin touch, inside 0..limit - 1."""
    step = length / samples.to(tl.float32)
    first = tl.minimum(tl.maximum(start + 0.5 * step, 0.0).to(tl.int32), limit - 1)
    final = tl.maximum(start + (samples.to(tl.float32) - 0.5) * step, 0.0)
    return first, tl.minimum(final.to(tl.int32) + 1, limit - 1)


@triton.jit
def _axis_weights(cell, start, length, samples, limit):
    """Mean bilinear weight of each cell over the samples of a bin, one axis."""
    step = length / samples.to(tl.float32)
    weight = tl.zeros(cell.shape, dtype=tl.float32)
    for i in range(0, samples):
        position = start + (i + 0.5) * step
        counts = tl.where((position >= -1.0) & (position <= limit), 1.0, 0.0)
        position = tl.minimum(tl.maximum(position, 0.0), limit - 1.0)
        # a hat of width two cells around the position
        weight += counts * tl.maximum(1.0 - tl.abs(cell.to(tl.float32) - position), 0.0)
    return weight / samples.to(tl.float32)


@triton.jit
def _pool_row(
    x_ptr,  # (B, H, W, C)
    out_ptr,  # (SIZE, C), at the row of bins
    image,
    y1,
    x1,
    bin_height,
    bin_width,
    row,
    H,
    W,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STEP: tl.constexpr,
):
    channel = tl.arange(0, BLOCK_C)
    inside = channel < C
    part = tl.arange(0, STEP * STEP)
    # a box without area has no samples and is zero
    solid = tl.where((bin_height > 0.0) & (bin_width > 0.0), 1.0, 0.0)
    samples_y = tl.maximum(tl.ceil(bin_height).to(tl.int32), 1)
    samples_x = tl.maximum(tl.ceil(bin_width).to(tl.int32), 1)
    y = y1 + row * bin_height
    first_y, last_y = _first_and_last(y, bin_height, samples_y, H)
    for column in range(0, SIZE):
        x = x1 + column * bin_width
        first_x, last_x = _first_and_last(x, bin_width, samples_x, W)
        acc = tl.zeros([BLOCK_C], dtype=tl.float32)
        for start_y in range(first_y, last_y + 1, STEP):
            cell_y = start_y + part // STEP
            weight_y = _axis_weights(cell_y, y, bin_height, samples_y, H) * solid
            for start_x in range(first_x, last_x + 1, STEP):
                cell_x = start_x + part % STEP
                weight = weight_y * _axis_weights(cell_x, x, bin_width, samples_x, W)
                touched = (cell_y <= last_y) & (cell_x <= last_x)
                offset = ((image * H + cell_y) * W + cell_x) * C
                value = tl.load(
                    x_ptr + offset[:, None] + channel[None, :],
                    mask=touched[:, None] & inside[None, :],
                    other=0.0,
                )
                acc += tl.sum(value.to(tl.float32) * weight[:, None], axis=0)
        tl.store(out_ptr + column * C + channel, acc.to(out_ptr.dtype.element_ty), mask=inside)


# every image size has its own H and W: compiled once all the same
@triton.jit(do_not_specialize=["H0", "W0", "H1", "W1", "H2", "W2", "H3", "W3"])
def _roi_align_kernel(
    x0_ptr,  # (B, H0, W0, C), stride 4
    x1_ptr,  # (B, H1, W1, C), stride 8
    x2_ptr,  # (B, H2, W2, C), stride 16
    x3_ptr,  # (B, H3, W3, C), stride 32
    rois_ptr,  # (R, 4) float32
    images_ptr,  # (R,) int32
    chosen_ptr,  # (R,) int32 or int64
    out_ptr,  # (R, SIZE, SIZE, C)
    H0,
    W0,
    H1,
    W1,
    H2,
    W2,
    H3,
    W3,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STEP: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_predecessor(OVERLAP)
    roi = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1)
    out_ptr += (roi * SIZE + row) * SIZE * C
    image = tl.load(images_ptr + roi).to(tl.int64)
    level = tl.load(chosen_ptr + roi).to(tl.int32)
    if image < 0:
        channel = tl.arange(0, BLOCK_C)
        nothing = tl.zeros([BLOCK_C], dtype=tl.float32).to(out_ptr.dtype.element_ty)
        for column in range(0, SIZE):
            tl.store(out_ptr + column * C + channel, nothing, mask=channel < C)
    else:
        # strides are 4, 8, 16, 32: their inverses are exact
        scale = 0.25 / (1 << level).to(tl.float32)
        left = tl.load(rois_ptr + roi * 4) * scale - 0.5
        top = tl.load(rois_ptr + roi * 4 + 1) * scale - 0.5
        right = tl.load(rois_ptr + roi * 4 + 2) * scale - 0.5
        bottom = tl.load(rois_ptr + roi * 4 + 3) * scale - 0.5
        # rounded properly: a bin of 2.0000002 cells instead of 2 would be sampled at other points
        bins = tl.full([], SIZE, dtype=tl.float32)
        width = tl.div_rn(right - left, bins)
        height = tl.div_rn(bottom - top, bins)
        # one copy of the loop per level: a pointer chosen at run time would lose its alignment
        if level == 0:
            _pool_row(
                x0_ptr,
                out_ptr,
                image,
                top,
                left,
                height,
                width,
                row,
                H0,
                W0,
                C,
                SIZE,
                BLOCK_C,
                STEP,
            )
        elif level == 1:
            _pool_row(
                x1_ptr,
                out_ptr,
                image,
                top,
                left,
                height,
                width,
                row,
                H1,
                W1,
                C,
                SIZE,
                BLOCK_C,
                STEP,
            )
        elif level == 2:
            _pool_row(
                x2_ptr,
                out_ptr,
                image,
                top,
                left,
                height,
                width,
                row,
                H2,
                W2,
                C,
                SIZE,
                BLOCK_C,
                STEP,
            )
        else:
            _pool_row(
                x3_ptr,
                out_ptr,
                image,
                top,
                left,
                height,
                width,
                row,
                H3,
                W3,
                C,
                SIZE,
                BLOCK_C,
                STEP,
            )


def roi_align_triton(
    levels: Sequence[Tensor], rois: Tensor, images: Tensor, chosen: Tensor, size: int
) -> Tensor:
    """Contract of `roi_align_ref`, at most float32; rows without a box cost one store."""
    maps = [x.contiguous() for x in levels]
    channels = maps[0].shape[3]
    block_c = next_power_of_2(channels)
    out = torch.empty((len(rois), size, size, channels), dtype=maps[0].dtype, device=maps[0].device)
    sides = {f"{'HW'[axis]}{i}": x.shape[1 + axis] for i, x in enumerate(maps) for axis in (0, 1)}
    _roi_align_kernel[(len(rois), size)](
        x0_ptr=maps[0],
        x1_ptr=maps[1],
        x2_ptr=maps[2],
        x3_ptr=maps[3],
        rois_ptr=rois.contiguous(),
        images_ptr=images.contiguous(),
        chosen_ptr=chosen.contiguous(),
        out_ptr=out,
        **sides,
        C=channels,
        SIZE=size,
        BLOCK_C=block_c,
        STEP=STEP,
        # a thread has all 16 cells of its channels: the sum over the cells needs no exchange
        num_warps=max(1, block_c // 256),
        **overlapping(),
    )
    return out
