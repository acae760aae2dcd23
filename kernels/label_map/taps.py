"""Two bilinear resizings of one axis as a single one, with up to three taps."""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

# a table of the largest photograph takes 150 KB, the usual one 10 KB
_CACHED_TABLES: Final = 256


@lru_cache(maxsize=_CACHED_TABLES)
def composed_taps(source: int, middle: int, target: int) -> NDArray[np.int32]:
    """Resize `source` to `middle`, that to `target`, bilinearly with align_corners=False.

    Args:
        source: pixels; not more than `middle`, else there are more than three taps.
        middle: pixels.
        target: pixels.

    Returns:
        (1 + taps, target) int32, read-only: position of the first tap, then the float32 bits of
        the weights of the source pixels from there on. Where these would lie beyond the last
        source pixel, the weight is 0.
    """
    inner_low, inner_high, inner = _linear(source, middle)
    low, high, outer = _linear(middle, target)
    position = np.stack([inner_low[low], inner_high[low], inner_low[high], inner_high[high]])
    weight = np.stack(
        [
            (1 - outer) * (1 - inner[low]),
            (1 - outer) * inner[low],
            outer * (1 - inner[high]),
            outer * inner[high],
        ]
    )
    first = position[0]
    step = np.where(weight == 0, 0, position - first)
    composed = np.zeros((step.max() + 1, target))
    for tap in range(4):
        composed[step[tap], np.arange(target)] += weight[tap]
    table = np.concatenate(
        [first[None].astype(np.int32), composed.astype(np.float32).view(np.int32)]
    )
    table.flags.writeable = False  # shared through the cache
    return table


def _linear(
    source: int, target: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Lower tap, upper tap and the upper one's weight for every pixel of `target`."""
    position = ((np.arange(target) + 0.5) * (source / target) - 0.5).clip(0, source - 1)
    low = np.floor(position).astype(np.int64)
    return low, np.minimum(low + 1, source - 1), position - low
