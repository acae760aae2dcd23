"""Which source pixels make a resized one, in the fixed-point arithmetic of Pillow and of OpenCV.

Sources: `src/libImaging/Resample.c` of Pillow 12.3 and 13.0 (the same coefficients), and
`modules/imgproc/src/resize.cpp` of OpenCV 4 (unchanged in 5.0).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

# fractional bits of a bicubic coefficient (Pillow) and of a bilinear one (OpenCV)
BICUBIC_BITS: Final = 22
BILINEAR_BITS: Final = 11
# a table of the largest photograph we serve takes 100 KB, the usual one 6 KB
_CACHED_TABLES: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class AxisTaps:
    """How the n pixels of one resized axis are made from the source.

    Attributes:
        start: first source pixel that is read.
        stop: end of the source pixels that are read.
        table: (rows, n) int32, read-only; positions count from `start`.
            Bicubic: position of the first tap, number of taps, then one row of weights per tap,
            in units of 2^-22, 0 beyond the number of taps.
            Bilinear: position of the lower tap, of the upper one, and their weights, in 2^-11.
    """

    start: int
    stop: int
    table: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Pixels after resizing."""
        return int(self.table.shape[1])


@lru_cache(maxsize=_CACHED_TABLES)
def bicubic_taps(
    source: int,
    target: int,
    *,
    box: tuple[float, float] | None = None,
    crop: tuple[int, int] | None = None,
) -> AxisTaps:
    """Pillow's antialiased bicubic: `resize(target, BICUBIC, box)`, then `crop`, of one axis.

    Args:
        source: pixels.
        target: pixels.
        box: part of the source that becomes the target, pixels; None: all of it.
        crop: range of the target that is wanted, inside 0..target; None: all of it.
    """
    edges = np.asarray(box or (0, source), dtype=np.float32)  # Pillow hands them over as float32
    scale = float(edges[1] - edges[0]) / target
    widening = max(scale, 1.0)
    support = 2.0 * widening
    wanted = np.arange(*(crop or (0, target)), dtype=np.float64)
    center = float(edges[0]) + (wanted + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    stop = np.minimum((center + support + 0.5).astype(np.int64), source)
    count = stop - first
    tap = np.arange(count.max())[:, None]
    weight = _bicubic((tap + first - center + 0.5) * (1.0 / widening))
    weight = np.where(tap < count, weight, 0.0)
    # cumulative, because Pillow sums from left to right and `sum` does not
    weight /= np.cumsum(weight, axis=0)[-1]
    rounded = np.trunc(np.copysign(0.5, weight) + weight * (1 << BICUBIC_BITS))
    return _freeze(int(first[0]), int(stop[-1]), np.stack([first - first[0], count]), rounded)


@lru_cache(maxsize=_CACHED_TABLES)
def bilinear_taps(source: int, target: int, *, vertical: bool) -> AxisTaps:
    """OpenCV's `resize(..., INTER_LINEAR)` on uint8, one axis.

    Args:
        source: pixels.
        target: pixels.
        vertical: beyond the border OpenCV weighs columns as the border pixel once, rows as the
            border pixel twice with split weights, which rounds differently.
    """
    scale = 1.0 / (target / source)
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.int64)
    upper = position - low.astype(np.float32)
    if not vertical:
        upper[(low < 0) | (low >= source - 1)] = 0.0
    taps = np.stack([low, low + 1]).clip(0, source - 1)
    weights = np.stack([np.float32(1.0) - upper, upper]) * np.float32(1 << BILINEAR_BITS)
    return _freeze(0, source, taps, np.rint(weights))


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -0.5, in Pillow's order of operations."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _freeze(
    start: int, stop: int, positions: NDArray[np.int64], weights: NDArray[np.floating]
) -> AxisTaps:
    table = np.concatenate([positions, weights]).astype(np.int32)
    table.flags.writeable = False  # shared through the cache
    return AxisTaps(start, stop, table)
