"""How fast the device works, learned from the batches it has done."""

from collections.abc import Iterable
from typing import Final

_WEIGHT_OF_NEWEST: Final = 0.2


class Throughput:
    """Moving average of seconds per pixel, per model."""

    def __init__(self) -> None:
        self._seconds_per_pixel: dict[str, float] = {}

    def observe(self, model: str, pixels: int, seconds: float) -> None:
        """A batch of so many input pixels took so long."""
        newest = seconds / max(1, pixels)
        known = self._seconds_per_pixel.get(model, newest)
        self._seconds_per_pixel[model] = known + _WEIGHT_OF_NEWEST * (newest - known)

    def seconds(self, work: Iterable[tuple[str, int]]) -> float | None:
        """Time for `(model, pixels)` pairs.

        A model without a measurement counts as the slowest one measured; None while there is no
        measurement at all.
        """
        if not self._seconds_per_pixel:
            return None
        slowest = max(self._seconds_per_pixel.values())
        return sum(pixels * self._seconds_per_pixel.get(model, slowest) for model, pixels in work)
