"""Both resizings in plain NumPy, integer for integer as Pillow and OpenCV make them."""

import numpy as np
from numpy.typing import NDArray

from kernels.resizing.packing import Resampling
from kernels.resizing.taps import BICUBIC_BITS, BILINEAR_BITS, AxisTaps


def resample_bicubic_ref(item: Resampling) -> NDArray[np.uint8]:
    """Two passes of weighted sums; each rounds to the nearest integer and clips to 0..255.

    Returns:
        (rows, columns, 3) uint8.
    """
    axes = ((item.rows, 0), (item.columns, 1))
    pixels = item.window.astype(np.int32)
    for taps, axis in axes if item.vertical_first else reversed(axes):
        pixels = np.moveaxis(_bicubic_pass(np.moveaxis(pixels, axis, 0), taps), 0, axis)
    return pixels.astype(np.uint8)


def resample_bilinear_ref(item: Resampling) -> NDArray[np.uint8]:
    """Horizontal pass exact, vertical pass in 16-bit multiplications that truncate.

    S = sum of weight * pixel over two columns, then
    (sum of (weight * (S >> 4) >> 16) over two rows + 2) >> 2.

    Returns:
        (rows, columns, 3) uint8.
    """
    lower, upper, weight_lower, weight_upper = item.columns.table
    pixels = item.window.astype(np.int32)
    across = pixels[:, lower] * weight_lower[:, None] + pixels[:, upper] * weight_upper[:, None]
    across >>= BILINEAR_BITS - 7
    lower, upper, weight_lower, weight_upper = (row[..., None, None] for row in item.rows.table)
    down = (across[lower[:, 0, 0]] * weight_lower >> 16) + (
        across[upper[:, 0, 0]] * weight_upper >> 16
    )
    return np.asarray(down + 2 >> 2, dtype=np.uint8)


def to_rgbx(rgb: NDArray[np.uint8], padded_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, 3) -> (H, W, 4): X is 255 inside the picture; all four are 0 right and below of it."""
    padded = np.zeros((*padded_hw, 4), dtype=np.uint8)
    padded[: rgb.shape[0], : rgb.shape[1], :3] = rgb
    padded[: rgb.shape[0], : rgb.shape[1], 3] = 255
    return padded


def _bicubic_pass(pixels: NDArray[np.int32], taps: AxisTaps) -> NDArray[np.int32]:
    """(source, n, 3) int32 -> (target, n, 3) int32 in 0..255."""
    first, _, *weights = taps.table
    total = np.full((taps.size, *pixels.shape[1:]), 1 << (BICUBIC_BITS - 1), dtype=np.int32)
    for tap, weight in enumerate(weights):
        # beyond the number of taps the weight is 0, whatever the pixel
        total += pixels[np.minimum(first + tap, len(pixels) - 1)] * weight[:, None, None]
    return (total >> BICUBIC_BITS).clip(0, 255)
