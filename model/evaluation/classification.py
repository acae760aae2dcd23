"""How often the right class is the best answer, or among the five best."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.results import Classification, Result

_TOP1: Final = 1
_TOP5: Final = 5


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of right answers, 0..1.

    Attributes:
        top1: the best answer is right.
        top5: the right class is among the five best answers.
        class_mean: top1 per class, averaged over the classes that occur.
    """

    top1: float
    top5: float
    class_mean: float


def rank_of(probabilities: NDArray[np.float32], truth: int) -> int:
    """How many other classes are thought at least as likely as the true one; 0 is right.

    Raises:
        ValueError: a probability is not a number.
    """
    if not np.isfinite(probabilities).all():
        raise ValueError("the network answered with something that is not a number")
    return int((probabilities >= probabilities[truth]).sum()) - 1


def accuracy_of_ranks(ranks: Iterable[int], truths: Iterable[int]) -> Accuracy:
    """Summarise what `rank_of` found.

    Raises:
        ValueError: no answers.
    """
    rank, label = np.array(list(ranks)), np.array(list(truths))
    if not len(rank):
        raise ValueError("no answers to measure")
    per_class = [float((rank[label == k] == 0).mean()) for k in np.unique(label)]
    return Accuracy(
        top1=float((rank < _TOP1).mean()),
        top5=float((rank < _TOP5).mean()),
        class_mean=float(np.mean(per_class)),
    )


class ClassificationMeasure:
    """See `model.evaluation.measure.Measure`; the truth is a class id."""

    def __init__(self) -> None:
        self._ranks: list[int] = []
        self._truths: list[int] = []
        self._num_right = 0

    def record(self, truth: int, result: Result, original_hw: tuple[int, int]) -> dict[str, Any]:
        if not isinstance(result, Classification):
            raise TypeError(f"expected a Classification, got {type(result).__name__}")
        rank = rank_of(result.probabilities, truth)
        return {"rank": rank, "best": int(result.probabilities.argmax())}

    def add(self, truth: int, record: dict[str, Any]) -> None:
        self._ranks.append(int(record["rank"]))
        self._truths.append(truth)
        self._num_right += self._ranks[-1] < _TOP1

    def headline(self) -> str:
        share = self._num_right / len(self._ranks) if self._ranks else math.nan
        return f"top-1 {100 * share:.2f}"

    def metrics(self) -> dict[str, float]:
        found = accuracy_of_ranks(self._ranks, self._truths)
        return {
            "top-1": found.top1,
            "top-5": found.top5,
            "top-1 averaged over classes": found.class_mean,
        }
