"""Class maps on the GPU without full-size logits.

One program makes a tile of the class map in two steps. A resized logit is a weighted mean of the
logits around it, so a class that is lower than another one everywhere around the tile cannot win
inside: the first step finds the classes that can, one or two in most tiles of a trained network.
The second step resizes these, one after the other, and keeps the largest.
"""

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.label_map.taps import composed_taps

BLOCK_H = 16
BLOCK_W = 32
_BLOCK_X = 8
# the last one is empty: it keeps the tables behind the descriptors on 16 bytes
_FIELDS = 6
_MAX_CLASSES = 256


@triton.jit
def _find_contenders(
    logits_ptr,
    stride_h,
    stride_w,
    stride_k,
    top,
    bottom,
    left,
    right,
    K: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """(BLOCK_K,) bool: class can have the largest mean of rows top..bottom, columns left..right."""
    class_id = tl.arange(0, BLOCK_K)
    highest = tl.full([BLOCK_X, BLOCK_K], float("-inf"), dtype=tl.float32)
    lowest = tl.full([BLOCK_X, BLOCK_K], float("inf"), dtype=tl.float32)
    for row in range(top, bottom + 1):
        for start in range(left, right + 1, BLOCK_X):
            # columns beyond the last repeat it, which changes neither extreme
            column = tl.minimum(start + tl.arange(0, BLOCK_X), right)
            offset = row * stride_h + column[:, None] * stride_w + class_id[None, :] * stride_k
            value = tl.load(logits_ptr + offset, mask=(class_id < K)[None, :], other=0.0)
            highest = tl.maximum(highest, value.to(tl.float32))
            lowest = tl.minimum(lowest, value.to(tl.float32))
    highest_k = tl.max(highest, axis=0)
    lowest_k = tl.min(lowest, axis=0)
    reached = tl.max(tl.where(class_id < K, lowest_k, float("-inf")), axis=0)
    return (class_id < K) & (highest_k >= reached)


@triton.jit(do_not_specialize=["h", "w", "stride_b", "stride_h", "stride_w"])
def _label_map_kernel(
    descriptors_ptr,  # (B, FIELDS) int64
    positions_ptr,  # int32: tables of `composed_taps`
    weights_ptr,  # float32: the same memory
    logits_ptr,  # (B, h, w, K)
    out_ptr,  # uint8
    h,
    w,
    stride_b,
    stride_h,
    stride_w,
    stride_k,
    K: tl.constexpr,
    TAPS: tl.constexpr,
    FIELDS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_predecessor(OVERLAP)
    image = tl.program_id(1)
    fields = descriptors_ptr + image * FIELDS
    height = tl.load(fields + 2).to(tl.int32)
    width = tl.load(fields + 3).to(tl.int32)
    tiles_x = tl.cdiv(width, BLOCK_W)
    start_y = (tl.program_id(0) // tiles_x) * BLOCK_H
    start_x = (tl.program_id(0) % tiles_x) * BLOCK_W
    if start_y < height:
        logits_ptr += image.to(tl.int64) * stride_b
        rows = tl.load(fields)
        columns = tl.load(fields + 1)
        last_y = tl.minimum(start_y + BLOCK_H, height) - 1
        last_x = tl.minimum(start_x + BLOCK_W, width) - 1
        contender = _find_contenders(
            logits_ptr,
            stride_h,
            stride_w,
            stride_k,
            tl.load(positions_ptr + rows + start_y),
            tl.minimum(tl.load(positions_ptr + rows + last_y) + TAPS - 1, h - 1),
            tl.load(positions_ptr + columns + start_x),
            tl.minimum(tl.load(positions_ptr + columns + last_x) + TAPS - 1, w - 1),
            K,
            BLOCK_X,
            BLOCK_K,
        )
        y = start_y + tl.arange(0, BLOCK_H)
        x = start_x + tl.arange(0, BLOCK_W)
        first_row = tl.load(positions_ptr + rows + y, mask=y < height, other=0)
        first_column = tl.load(positions_ptr + columns + x, mask=x < width, other=0)
        best = tl.full([BLOCK_H, BLOCK_W], float("-inf"), dtype=tl.float32)
        class_id = tl.arange(0, BLOCK_K)
        candidate = tl.min(tl.where(contender, class_id, BLOCK_K), axis=0)
        label = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.int32) + candidate
        # a single contender wins without being computed
        if tl.sum(contender.to(tl.int32), axis=0) == 1:
            candidate += BLOCK_K
        while candidate < BLOCK_K:
            value = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.float32)
            for i in tl.static_range(TAPS):
                row = tl.minimum(first_row + i, h - 1)
                row_weight = tl.load(
                    weights_ptr + rows + (1 + i) * height + y, mask=y < height, other=0.0
                )
                for j in tl.static_range(TAPS):
                    column = tl.minimum(first_column + j, w - 1)
                    column_weight = tl.load(
                        weights_ptr + columns + (1 + j) * width + x, mask=x < width, other=0.0
                    )
                    offset = row[:, None] * stride_h + column[None, :] * stride_w
                    logit = tl.load(logits_ptr + offset + candidate * stride_k).to(tl.float32)
                    value += row_weight[:, None] * column_weight[None, :] * logit
            # not "at least": of equal classes the first one wins
            label = tl.where(value > best, candidate, label)
            best = tl.maximum(value, best)
            later = contender & (class_id > candidate)
            candidate = tl.min(tl.where(later, class_id, BLOCK_K), axis=0)
        offset = tl.load(fields + 4) + y.to(tl.int64)[:, None] * width + x[None, :]
        exists = (y < height)[:, None] & (x < width)[None, :]
        tl.store(out_ptr + offset, label.to(tl.uint8), mask=exists)


def label_map(
    logits: Tensor,
    resized_hw: tuple[int, int],
    original_hw: tuple[int, int],
    out: Tensor | None = None,
) -> Tensor:
    """Contract of `label_map_ref`, at most float32, computed in float32.

    Args:
        out: (H * W,) uint8, contiguous; what the answer is a view of.

    Raises:
        ValueError: as `label_maps`.
    """
    return label_maps(logits.unsqueeze(0), resized_hw, [original_hw], out)[0]


def label_maps(
    logits: Tensor,
    resized_hw: tuple[int, int],
    original_hws: Sequence[tuple[int, int]],
    out: Tensor | None = None,
) -> list[Tensor]:
    """`label_map` of a batch in one launch.

    Args:
        logits: (B, h, w, K) of any strides; float16, bfloat16 or float32, finite, K <= 256.
        resized_hw: size of the network's input before padding, at least (h, w).
        original_hws: (H, W) of every photograph.
        out: (sum of H * W,) uint8, contiguous; the class maps one after the other.

    Returns:
        Per image (H, W) uint8, a view of `out`.

    Raises:
        ValueError: shapes or dtypes do not fit the above.
    """
    sizes = [height * width for height, width in original_hws]
    _check(logits, resized_hw, original_hws)
    if out is None:
        out = torch.empty(sum(sizes), dtype=torch.uint8, device=logits.device)
    if out.shape != (sum(sizes),) or out.dtype != torch.uint8 or not out.is_contiguous():
        raise ValueError(
            f"out must be ({sum(sizes)},) contiguous uint8, got {out.shape} {out.dtype}"
        )
    descriptors, tables, taps = _pack(logits.shape[1:3], resized_hw, original_hws)
    on_device = _to_device(
        np.concatenate([descriptors.view(np.int32).ravel(), tables]), logits.device
    )
    num_descriptors = 2 * descriptors.size
    positions = on_device[num_descriptors:]
    tiles = max(triton.cdiv(H, BLOCK_H) * triton.cdiv(W, BLOCK_W) for H, W in original_hws)
    _label_map_kernel[(tiles, len(original_hws))](
        descriptors_ptr=on_device[:num_descriptors].view(torch.int64),
        positions_ptr=positions,
        weights_ptr=positions.view(torch.float32),
        logits_ptr=logits,
        out_ptr=out,
        h=logits.shape[1],
        w=logits.shape[2],
        stride_b=logits.stride(0),
        stride_h=logits.stride(1),
        stride_w=logits.stride(2),
        stride_k=logits.stride(3),
        K=logits.shape[3],
        TAPS=taps,
        FIELDS=_FIELDS,
        BLOCK_H=BLOCK_H,
        BLOCK_W=BLOCK_W,
        BLOCK_X=_BLOCK_X,
        BLOCK_K=triton.next_power_of_2(logits.shape[3]),
        **overlapping(),
    )
    parts = torch.split(out, sizes)
    return [part.view(hw) for part, hw in zip(parts, original_hws, strict=True)]


def _check(
    logits: Tensor, resized_hw: tuple[int, int], original_hws: Sequence[tuple[int, int]]
) -> None:
    if logits.dim() != 4 or logits.numel() == 0 or logits.shape[3] > _MAX_CLASSES:
        raise ValueError(f"logits must be (B, h, w, K), K <= {_MAX_CLASSES}, got {logits.shape}")
    if logits.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"logits are at most float32, got {logits.dtype}")
    if len(original_hws) != logits.shape[0]:
        raise ValueError(f"{logits.shape[0]} images have {len(original_hws)} sizes")
    if resized_hw[0] < logits.shape[1] or resized_hw[1] < logits.shape[2]:
        raise ValueError(f"logits {tuple(logits.shape[1:3])} exceed resized size {resized_hw}")
    last = zip(logits.shape[1:], logits.stride()[1:], strict=True)
    if sum((size - 1) * stride for size, stride in last) >= 2**31:
        raise ValueError(f"logits of one image exceed 2^31 values: {logits.shape}")


def _pack(
    logits_hw: Sequence[int], resized_hw: tuple[int, int], original_hws: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """Descriptors (B, FIELDS), all tables in one, and the number of taps.

    A descriptor: offset of the table of the rows, of the columns, H, W, offset of the class map.
    """
    axes = [
        [composed_taps(logits_hw[axis], resized_hw[axis], hw[axis]) for axis in range(2)]
        for hw in original_hws
    ]
    # one resizing has two taps; a single pixel's one is no reason to compile the kernel again
    taps = max(2, *(len(table) - 1 for pair in axes for table in pair))
    tables: list[NDArray[np.int32]] = []
    descriptors = []
    tables_end = labels_end = 0
    for (height, width), pair in zip(original_hws, axes, strict=True):
        starts = []
        for table in pair:
            starts.append(tables_end)
            # zero bits are the float32 zero
            tables.append(np.pad(table, ((0, 1 + taps - len(table)), (0, 0))).ravel())
            tables_end += tables[-1].size
        descriptors.append((*starts, height, width, labels_end, 0))
        labels_end += height * width
    return np.array(descriptors, dtype=np.int64), np.concatenate(tables), taps


def _to_device(values: NDArray[np.int32], device: torch.device) -> Tensor:
    host = torch.from_numpy(values)
    # from pageable memory the copy would wait for everything that runs before it
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
