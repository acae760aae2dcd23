"""Top-1 and top-5 of answers that were chosen to have them."""

import numpy as np
import pytest

from model.evaluation.classification import ClassificationMeasure, accuracy_of_ranks, rank_of
from model.results import Classification, Segmentation


def with_truth_at(rank: int, truth: int, num_classes: int = 12) -> Classification:
    """Probabilities by which `truth` is the best class but `rank`."""
    others = [k for k in range(num_classes) if k != truth]
    order = [*others[:rank], truth, *others[rank:]]
    probabilities = np.zeros(num_classes, np.float32)
    probabilities[order] = 2.0 ** -np.arange(1, num_classes + 1)
    return Classification(probabilities / probabilities.sum())


def test_top_1_and_top_5_are_those_that_were_scripted() -> None:
    measure = ClassificationMeasure()
    for i, rank in enumerate([0, 0, 4, 0, 5, 0, 0, 11, 0, 1]):
        truth = i % 2
        measure.add(truth, measure.record(truth, with_truth_at(rank, truth), (8, 8)))
    assert measure.metrics() == {
        "top-1": 0.6,
        "top-5": 0.8,
        "top-1 averaged over classes": pytest.approx((3 / 5 + 3 / 5) / 2),
    }
    assert measure.headline() == "top-1 60.00"


def test_classes_count_alike_in_their_average() -> None:
    found = accuracy_of_ranks([0, 0, 0, 1, 0], [0, 0, 0, 0, 3])
    assert found.top1 == pytest.approx(4 / 5)
    assert found.class_mean == pytest.approx((3 / 4 + 1) / 2)


def test_a_tie_is_not_right_and_nan_is_an_error() -> None:
    assert rank_of(np.array([0.5, 0.5], np.float32), 0) == 1
    with pytest.raises(ValueError, match="not a number"):
        rank_of(np.array([np.nan, np.nan], np.float32), 0)


def test_nothing_to_measure() -> None:
    measure = ClassificationMeasure()
    assert measure.headline() == "top-1 nan"
    with pytest.raises(ValueError, match="no answers"):
        measure.metrics()
    with pytest.raises(TypeError, match="expected a Classification, got Segmentation"):
        measure.record(0, Segmentation(np.zeros((1, 1), np.uint8)), (1, 1))
