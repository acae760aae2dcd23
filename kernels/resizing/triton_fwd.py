"""Resizing on the GPU: pictures of any sizes into one batch, bit for bit as on the CPU.

Sums are integers of 32 bits and so exact in any order; positions and weights come from tables
that the host makes (`kernels.resizing.taps`). Three channels of 8 bits travel as one 32-bit word
between the two bicubic passes and into the output.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.resizing.packing import BICUBIC_FIELDS, BILINEAR_FIELDS, DeviceBatch

BLOCK_H = 16
BLOCK_W = 64


@triton.jit
def _round_clip(total):
    """22 fractional bits -> nearest integer in 0..255."""
    return tl.minimum(tl.maximum((total + (1 << 21)) >> 22, 0), 255)


@triton.jit(do_not_specialize=["size"])
def _bicubic_lines_kernel(
    descriptors_ptr,  # (B, FIELDS) int64
    tables_ptr,  # int32
    pixels_ptr,  # uint8
    middle_ptr,  # int32: 0x00BBGGRR, per picture (lines, size)
    size,
    FIELDS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """First pass: along the lines of each picture."""
    await_predecessor(OVERLAP)
    fields = descriptors_ptr + tl.program_id(2) * FIELDS
    lines = tl.load(fields + 3)
    start = tl.program_id(1) * BLOCK_H
    if start < lines:
        line = start + tl.arange(0, BLOCK_H)
        column = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
        inside = column < size
        valid = (line < lines)[:, None] & inside[None, :]
        table = tables_ptr + tl.load(fields + 4)
        first = tl.load(table + column, mask=inside, other=0)
        count = tl.load(table + size + column, mask=inside, other=0)
        line_ptr = pixels_ptr + tl.load(fields) + line.to(tl.int64)[:, None] * tl.load(fields + 1)
        pixel_step = tl.load(fields + 2)
        red = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.int32)
        green = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.int32)
        blue = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.int32)
        taps = tl.load(fields + 5).to(tl.int32)
        for tap in range(0, taps):
            used = valid & (tap < count)[None, :]
            weight = tl.load(table + (2 + tap) * size + column, mask=inside, other=0)[None, :]
            pixel = line_ptr + ((first + tap).to(tl.int64) * pixel_step)[None, :]
            red += weight * tl.load(pixel, mask=used, other=0).to(tl.int32)
            green += weight * tl.load(pixel + 1, mask=used, other=0).to(tl.int32)
            blue += weight * tl.load(pixel + 2, mask=used, other=0).to(tl.int32)
        packed = _round_clip(red) | (_round_clip(green) << 8) | (_round_clip(blue) << 16)
        offset = tl.load(fields + 8) + line.to(tl.int64)[:, None] * size + column[None, :]
        tl.store(middle_ptr + offset, packed, mask=valid)


@triton.jit(do_not_specialize=["size", "padded"])
def _bicubic_columns_kernel(
    descriptors_ptr,  # (B, FIELDS) int64
    tables_ptr,  # int32
    middle_ptr,  # int32: 0x00BBGGRR, per picture (lines, size)
    out_ptr,  # (B, padded, padded) int32: 0xFFBBGGRR inside, 0 outside
    size,
    padded,
    FIELDS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Second pass: from line to line."""
    await_predecessor(OVERLAP)
    image = tl.program_id(2)
    fields = descriptors_ptr + image * FIELDS
    row = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    column = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
    inside = row < size
    valid = inside[:, None] & (column < size)[None, :]
    table = tables_ptr + tl.load(fields + 6)
    first = tl.load(table + row, mask=inside, other=0)
    count = tl.load(table + size + row, mask=inside, other=0)
    column_ptr = middle_ptr + tl.load(fields + 8) + column[None, :]
    red = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.int32)
    green = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.int32)
    blue = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.int32)
    taps = tl.load(fields + 7).to(tl.int32)
    for tap in range(0, taps):
        used = valid & (tap < count)[:, None]
        weight = tl.load(table + (2 + tap) * size + row, mask=inside, other=0)[:, None]
        line = (first + tap).to(tl.int64)[:, None]
        packed = tl.load(column_ptr + line * size, mask=used, other=0)
        red += weight * (packed & 255)
        green += weight * ((packed >> 8) & 255)
        blue += weight * ((packed >> 16) & 255)
    # -0x1000000 is 0xFF000000 as a signed word
    packed = _round_clip(red) | (_round_clip(green) << 8) | (_round_clip(blue) << 16) | -0x1000000
    # which of the two axes is the vertical one depends on the order of the picture's passes
    offset = row[:, None] * tl.load(fields + 10) + column[None, :] * tl.load(fields + 9)
    offset += image.to(tl.int64) * padded * padded
    exists = (row < padded)[:, None] & (column < padded)[None, :]
    tl.store(out_ptr + offset, tl.where(valid, packed, 0), mask=exists)


@triton.jit
def _bilinear_channel(pixel, right, down, valid, left_weight, right_weight, top_weight, low_weight):
    """One channel from four pixels; `right` and `down` are byte distances."""
    top = left_weight * tl.load(pixel, mask=valid, other=0).to(tl.int32)
    top += right_weight * tl.load(pixel + right, mask=valid, other=0).to(tl.int32)
    low = left_weight * tl.load(pixel + down, mask=valid, other=0).to(tl.int32)
    low += right_weight * tl.load(pixel + down + right, mask=valid, other=0).to(tl.int32)
    return ((((top >> 4) * top_weight) >> 16) + (((low >> 4) * low_weight) >> 16) + 2) >> 2


@triton.jit(do_not_specialize=["padded_h", "padded_w"])
def _bilinear_kernel(
    descriptors_ptr,  # (B, FIELDS) int64
    tables_ptr,  # int32
    pixels_ptr,  # uint8
    out_ptr,  # (B, padded_h, padded_w) int32: 0xFFBBGGRR inside, 0 outside
    padded_h,
    padded_w,
    FIELDS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_predecessor(OVERLAP)
    image = tl.program_id(2)
    fields = descriptors_ptr + image * FIELDS
    row = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    column = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
    height = tl.load(fields + 4).to(tl.int32)
    width = tl.load(fields + 5).to(tl.int32)
    row_inside = row < height
    column_inside = column < width
    valid = row_inside[:, None] & column_inside[None, :]

    rows = tables_ptr + tl.load(fields + 2) + row
    top = tl.load(rows, mask=row_inside, other=0).to(tl.int64)
    row_step = tl.load(fields + 1)
    down = ((tl.load(rows + height, mask=row_inside, other=0) - top) * row_step)[:, None]
    top_weight = tl.load(rows + 2 * height, mask=row_inside, other=0)[:, None]
    low_weight = tl.load(rows + 3 * height, mask=row_inside, other=0)[:, None]

    columns = tables_ptr + tl.load(fields + 3) + column
    left = tl.load(columns, mask=column_inside, other=0)
    right = ((tl.load(columns + width, mask=column_inside, other=0) - left) * 3)[None, :]
    left_weight = tl.load(columns + 2 * width, mask=column_inside, other=0)[None, :]
    right_weight = tl.load(columns + 3 * width, mask=column_inside, other=0)[None, :]

    pixel = pixels_ptr + tl.load(fields) + (top * row_step)[:, None] + (left * 3)[None, :]
    red = _bilinear_channel(
        pixel, right, down, valid, left_weight, right_weight, top_weight, low_weight
    )
    green = _bilinear_channel(
        pixel + 1, right, down, valid, left_weight, right_weight, top_weight, low_weight
    )
    blue = _bilinear_channel(
        pixel + 2, right, down, valid, left_weight, right_weight, top_weight, low_weight
    )
    packed = red | (green << 8) | (blue << 16) | -0x1000000
    offset = (image.to(tl.int64) * padded_h + row)[:, None] * padded_w + column[None, :]
    exists = (row < padded_h)[:, None] & (column < padded_w)[None, :]
    tl.store(out_ptr + offset, tl.where(valid, packed, 0), mask=exists)


def resample_bicubic(
    batch: DeviceBatch, out: Tensor, *, size: int, max_lines: int, middle_pixels: int
) -> None:
    """Contract of `resample_bicubic_ref` and `to_rgbx` for a whole batch, square pictures only.

    Args:
        batch: `PackedBatch.view` of bytes on the device, packed with `bicubic=True`.
        out: (B, H, H, 4) uint8, contiguous; every byte is written.
        size: pixels of both sides after resizing.
        max_lines: of the `PackedBatch`.
        middle_pixels: of the `PackedBatch`.
    """
    images, padded = out.shape[0], out.shape[1]
    middle = torch.empty(middle_pixels, dtype=torch.int32, device=out.device)
    _bicubic_lines_kernel[(triton.cdiv(size, BLOCK_W), triton.cdiv(max_lines, BLOCK_H), images)](
        descriptors_ptr=batch.descriptors,
        tables_ptr=batch.tables,
        pixels_ptr=batch.pixels,
        middle_ptr=middle,
        size=size,
        FIELDS=BICUBIC_FIELDS,
        BLOCK_H=BLOCK_H,
        BLOCK_W=BLOCK_W,
        **overlapping(),
    )
    _bicubic_columns_kernel[(triton.cdiv(padded, BLOCK_W), triton.cdiv(padded, BLOCK_H), images)](
        descriptors_ptr=batch.descriptors,
        tables_ptr=batch.tables,
        middle_ptr=middle,
        out_ptr=out.view(torch.int32),
        size=size,
        padded=padded,
        FIELDS=BICUBIC_FIELDS,
        BLOCK_H=BLOCK_H,
        BLOCK_W=BLOCK_W,
        **overlapping(),
    )


def resample_bilinear(batch: DeviceBatch, out: Tensor) -> None:
    """Contract of `resample_bilinear_ref` and `to_rgbx` for a whole batch.

    Args:
        batch: `PackedBatch.view` of bytes on the device, packed with `bicubic=False`.
        out: (B, H, W, 4) uint8, contiguous; every byte is written.
    """
    images, padded_h, padded_w = out.shape[:3]
    grid = (triton.cdiv(padded_w, BLOCK_W), triton.cdiv(padded_h, BLOCK_H), images)
    _bilinear_kernel[grid](
        descriptors_ptr=batch.descriptors,
        tables_ptr=batch.tables,
        pixels_ptr=batch.pixels,
        out_ptr=out.view(torch.int32),
        padded_h=padded_h,
        padded_w=padded_w,
        FIELDS=BILINEAR_FIELDS,
        BLOCK_H=BLOCK_H,
        BLOCK_W=BLOCK_W,
        **overlapping(),
    )
