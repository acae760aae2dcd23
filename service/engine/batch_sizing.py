"""How many of the images that wait are worth computing together, where batches are filled up."""

from collections.abc import Sequence
from typing import Final

from service.engine.batch_types import BatchKey

_WEIGHT_OF_NEWEST: Final = 0.1
# a first batch of a shape is captured on the way, and may take a hundred times as long
_MOST: Final = 2.0


class BatchSizing:
    """Times of batches by the size that they are computed as.

    A compiled model computes a batch as the next of its sizes, with rows that belong to no image.
    Where sixteen images take twice as long as eight, nine are better computed as eight and one.
    Where sixteen take hardly longer, all nine at once are better.

    Only ratios matter here, so that pictures of all shapes may be thrown together by their pixels.
    """

    def __init__(self) -> None:
        # seconds for a pixel of each image, by model and size
        self._times: dict[str, dict[int, float]] = {}

    def observe(self, key: BatchKey, size: int, seconds: float) -> None:
        """A batch that was computed as `size` images took so long."""
        times, newest = self._times.setdefault(key.model, {}), seconds / max(1, key.pixels)
        known = times.get(size)
        if known is None:
            times[size] = newest
        else:
            times[size] = known + _WEIGHT_OF_NEWEST * (min(newest, _MOST * known) - known)

    def best(self, key: BatchKey, waiting: int, sizes: Sequence[int]) -> int:
        """Images of the next batch, such that the device does the most images per second.

        Args:
            waiting: images, at least 1, no more than a batch may have.
            sizes: that batches are filled up to; none: they are not filled up.

        Returns:
            `waiting`, or the next smaller size; without measurements `waiting`.
        """
        smaller = max((size for size in sizes if size <= waiting), default=waiting)
        larger = min((size for size in sizes if size >= waiting), default=waiting)
        times = self._times.get(key.model, {})
        if smaller in (waiting, larger) or not {smaller, larger} <= times.keys():
            return waiting
        is_faster = smaller * times[larger] > waiting * times[smaller]
        return smaller if is_faster else waiting
