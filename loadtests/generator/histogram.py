"""Latencies in buckets of constant relative width: exact counts, percentiles within 1 %."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SMALLEST_S: Final = 1e-6
_LARGEST_S: Final = 1e4
_WIDTH: Final = np.log(1.01)
_NUM_BUCKETS: Final = int(np.ceil(np.log(_LARGEST_S / _SMALLEST_S) / _WIDTH)) + 1


class LatencyHistogram:
    """Counts of durations between a microsecond and some hours; seconds throughout."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_NUM_BUCKETS, dtype=np.int64)
        self._sum = 0.0
        self.max = 0.0

    def __len__(self) -> int:
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """0 when empty."""
        return self._sum / max(1, len(self))

    def add(self, seconds: Sequence[float]) -> None:
        """Count these."""
        if not len(seconds):
            return
        values = np.asarray(seconds, dtype=np.float64)
        index = np.log(np.clip(values, _SMALLEST_S, _LARGEST_S) / _SMALLEST_S) / _WIDTH
        self._counts += np.bincount(index.astype(np.int64), minlength=_NUM_BUCKETS)
        self._sum += float(values.sum())
        self.max = max(self.max, float(values.max()))

    def merge(self, other: "LatencyHistogram") -> None:
        """Count what the other one has counted."""
        self._counts += other._counts
        self._sum += other._sum
        self.max = max(self.max, other.max)

    def percentile(self, percent: float) -> float:
        """The duration that so many per cent do not exceed, at most 1 % too long; 0 when empty."""
        total = len(self)
        if not total:
            return 0.0
        rank = max(1, int(np.ceil(total * percent / 100)))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(self.max, _SMALLEST_S * float(np.exp((bucket + 1) * _WIDTH)))
