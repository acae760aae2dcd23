"""Accuracy of the classifier."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.results import Classification

TOP: tuple[int, ...] = (1, 5)


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


def accuracy(answers: Iterable[tuple[Classification, int]]) -> Accuracy:
    """Compare answers with the true class ids.

    Raises:
        ValueError: no answers.
    """
    ranks, truths = [], []
    for answer, truth in answers:
        ranks.append(_rank(answer.probabilities, truth))
        truths.append(truth)
    if not ranks:
        raise ValueError("no answers to measure")
    rank, label = np.array(ranks), np.array(truths)
    per_class = [float((rank[label == k] == 0).mean()) for k in np.unique(label)]
    return Accuracy(
        top1=float((rank < TOP[0]).mean()),
        top5=float((rank < TOP[1]).mean()),
        class_mean=float(np.mean(per_class)),
    )


def _rank(probabilities: NDArray[np.float32], truth: int) -> int:
    """How many classes are thought at least as likely as the true one."""
    return int((probabilities >= probabilities[truth]).sum()) - 1
