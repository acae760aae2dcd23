"""Accuracy of the classifier."""

from collections.abc import Iterable

from model.evaluation.classification import Accuracy, accuracy_of_ranks, rank_of
from model.results import Classification


def accuracy(answers: Iterable[tuple[Classification, int]]) -> Accuracy:
    """Compare answers with the true class ids.

    Raises:
        ValueError: no answers.
    """
    ranks, truths = [], []
    for answer, truth in answers:
        ranks.append(rank_of(answer.probabilities, truth))
        truths.append(truth)
    return accuracy_of_ranks(ranks, truths)
