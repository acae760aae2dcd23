"""How fast the device works, learned from the batches it has done."""

import math
from collections.abc import Iterable
from typing import Final

_WEIGHT_OF_NEWEST: Final = 0.1
# sizes that differ by less than this part of their mean say nothing about the fixed cost
_SPREAD: Final = 0.1


class _Model:
    """Seconds of a batch as a straight line over its pixels, by least squares.

    What came earlier counts ever less.
    """

    def __init__(self) -> None:
        self._largest = self._number = 0
        # moving averages: of the pixels, the seconds, and their products
        self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, pixels: int, seconds: float) -> None:
        self._largest = max(self._largest, pixels)
        self._number += 1
        # the first ones count as in an ordinary mean, else the very first would last too long
        weight = max(_WEIGHT_OF_NEWEST, 1.0 / self._number)
        self._x += weight * (pixels - self._x)
        self._y += weight * (seconds - self._y)
        self._xx += weight * (pixels * pixels - self._xx)
        self._xy += weight * (pixels * seconds - self._xy)

    def line(self) -> tuple[float, float]:
        """Fixed seconds of a batch, and seconds per pixel."""
        variance = self._xx - self._x * self._x
        if variance > (_SPREAD * self._x) ** 2:
            slope = (self._xy - self._x * self._y) / variance
            fixed = self._y - slope * self._x
            if slope > 0 and fixed > 0:
                return fixed, slope
        return 0.0, self._y / self._x

    def seconds(self, pixels: int) -> float:
        """Of so many pixels, in batches as large as the largest so far."""
        if not pixels:
            return 0.0
        fixed, slope = self.line()
        return fixed * math.ceil(pixels / self._largest) + slope * pixels


class Throughput:
    """Times of future work, per model."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def observe(self, model: str, pixels: int, seconds: float) -> None:
        """A batch of so many input pixels took so long."""
        self._models.setdefault(model, _Model()).observe(max(1, pixels), seconds)

    def seconds(self, work: Iterable[tuple[str, int]]) -> float | None:
        """Time for `(model, pixels)` pairs.

        A model without a measurement counts as the slowest one measured; None while there is no
        measurement at all.
        """
        if not self._models:
            return None
        return sum(self._of(model, pixels) for model, pixels in work)

    def _of(self, model: str, pixels: int) -> float:
        known = self._models.get(model)
        if known is not None:
            return known.seconds(pixels)
        return max(own.seconds(pixels) for own in self._models.values())
