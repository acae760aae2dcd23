"""Intersection over union of class maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation.ade20k import IGNORED, read_annotation
from model.evaluation.errors import TruthError
from model.results import Result, Segmentation


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of a confusion matrix.

    Attributes:
        iou: (K,) intersection over union, NaN for classes that are neither there nor answered.
        accuracy: (K,) share of a class's pixels that are right, NaN for classes that do not occur.
        pixel_accuracy: share of all pixels that are right.
    """

    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    pixel_accuracy: float


def confusion_matrix(
    truth: NDArray[np.integer], found: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Count pixels by true (row) and answered (column) class.

    Args:
        truth: (H, W) class ids; pixels that are `IGNORED` do not count.
        found: (H, W) class ids.

    Returns:
        (K, K).

    Raises:
        ValueError: maps of different sizes.
    """
    if found.shape != truth.shape:
        raise ValueError(f"a map is {found.shape}, expected {truth.shape}")
    counted = truth != IGNORED
    pairs = truth[counted].astype(np.int64) * num_classes + found[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(confusion: NDArray[np.int64]) -> ClassScores:
    """Scores per class, of all pixels of all pictures together.

    Raises:
        ValueError: nothing was counted.
    """
    if not confusion.any():
        raise ValueError("no answers to measure")
    right = np.diag(confusion)
    there, answered = confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        return ClassScores(
            iou=right / (there + answered - right),
            accuracy=right / there,
            pixel_accuracy=float(right.sum() / confusion.sum()),
        )


class SegmentationMeasure:
    """See `model.evaluation.measure.Measure`; the truth is the path of an annotation.

    The metrics are those of the published evaluation, classes without a pixel left out:

    - mIoU: `ClassScores.iou`, averaged over the classes that occur or are answered;
    - mAcc: `ClassScores.accuracy`, averaged over the classes that occur;
    - aAcc: share of all pixels.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._confusion = np.zeros((num_classes, num_classes), np.int64)

    def record(self, truth: Path, result: Result, original_hw: tuple[int, int]) -> dict[str, Any]:
        if not isinstance(result, Segmentation):
            raise TypeError(f"expected a Segmentation, got {type(result).__name__}")
        labels = read_annotation(truth, self._num_classes)
        if labels.shape != original_hw:
            raise TruthError(
                f"the picture is {original_hw[1]}x{original_hw[0]}, its annotation {truth.name} "
                f"is {labels.shape[1]}x{labels.shape[0]}"
            )
        counts = confusion_matrix(labels, result.label_map, self._num_classes).ravel()
        cells = counts.nonzero()[0]
        return {"cells": cells.tolist(), "pixels": counts[cells].tolist()}

    def add(self, truth: Path, record: dict[str, Any]) -> None:
        cells = np.array(record["cells"], np.int64)
        self._confusion.reshape(-1)[cells] += np.array(record["pixels"], np.int64)

    def headline(self) -> str:
        if not self._confusion.any():
            return ""
        return f"mIoU {100 * float(np.nanmean(class_scores(self._confusion).iou)):.2f}"

    def metrics(self) -> dict[str, float]:
        scores = class_scores(self._confusion)
        return {
            "mIoU": float(np.nanmean(scores.iou)),
            "aAcc": scores.pixel_accuracy,
            "mAcc": float(np.nanmean(scores.accuracy)),
        }
