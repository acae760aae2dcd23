"""Average precision by the definition, one object at a time; for small cases only.

Masks and boxes are both given as boolean maps, so overlaps are counted, not computed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100


@dataclass(frozen=True)
class Thing:
    image: int
    category: int
    pixels: NDArray[np.bool_]
    crowd: bool = False


@dataclass(frozen=True)
class Found:
    image: int
    category: int
    pixels: NDArray[np.bool_]
    score: float


def overlap(found: Found, truth: Thing) -> float:
    both = float((found.pixels & truth.pixels).sum())
    if truth.crowd:
        return both / max(float(found.pixels.sum()), 1e-9)
    return both / max(float((found.pixels | truth.pixels).sum()), 1e-9)


def average_precision(truths: list[Thing], found: list[Found], threshold: float) -> float:
    """Mean over the categories that have objects."""
    values = [
        _of_category(
            [t for t in truths if t.category == category],
            [f for f in found if f.category == category],
            threshold,
        )
        for category in sorted({t.category for t in truths if not t.crowd})
    ]
    return float(np.mean(values))


def mean_average_precision(truths: list[Thing], found: list[Found]) -> float:
    return float(np.mean([average_precision(truths, found, t) for t in THRESHOLDS]))


def _of_category(truths: list[Thing], found: list[Found], threshold: float) -> float:
    outcomes: list[tuple[float, bool]] = []
    for image in sorted({t.image for t in truths} | {f.image for f in found}):
        outcomes += _of_image(
            [t for t in truths if t.image == image],
            [f for f in found if f.image == image],
            threshold,
        )
    outcomes.sort(key=lambda outcome: -outcome[0])
    total = sum(not t.crowd for t in truths)
    points: list[tuple[float, float]] = []
    right = 0
    for count, (_, is_right) in enumerate(outcomes, start=1):
        right += is_right
        points.append((right / total, right / count))
    best = [max((p for r, p in points if r >= recall - 1e-12), default=0.0) for recall in RECALLS]
    return float(np.mean(best))


def _of_image(
    truths: list[Thing], found: list[Found], threshold: float
) -> list[tuple[float, bool]]:
    """Score and whether it is right; those that fall on a crowd do not count."""
    free = [t for t in truths if not t.crowd]
    outcomes = []
    for own in sorted(found, key=lambda f: -f.score)[:MAX_DETECTIONS]:
        overlaps = [overlap(own, t) for t in free]
        if overlaps and max(overlaps) >= threshold:
            # of equal ones the last, as in the original
            free.pop(len(overlaps) - 1 - int(np.argmax(overlaps[::-1])))
            outcomes.append((own.score, True))
        elif not any(overlap(own, t) >= threshold for t in truths if t.crowd):
            outcomes.append((own.score, False))
    return outcomes
