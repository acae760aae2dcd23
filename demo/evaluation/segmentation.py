"""Intersection over union of class maps."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.evaluation.segmentation import class_scores, confusion_matrix
from model.results import Segmentation


@dataclass(frozen=True, slots=True)
class Overlap:
    """0..1 each.

    Attributes:
        mean_iou: over the classes that occur in the truth, background included.
        object_iou: the same without the background.
        pixel_accuracy: share of pixels with the right class.
    """

    mean_iou: float
    object_iou: float
    pixel_accuracy: float


def overlap(answers: Iterable[tuple[Segmentation, NDArray[np.uint8]]], num_classes: int) -> Overlap:
    """Compare class maps with the true ones, all pixels of all pictures together.

    Args:
        answers: each with its true (H, W) map; class 0 is the background.

    Raises:
        ValueError: no answers, or maps of different sizes.
    """
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for answer, truth in answers:
        confusion += confusion_matrix(truth, answer.label_map, num_classes)
    scores = class_scores(confusion)
    present = confusion.sum(1) > 0
    iou = scores.iou[present]
    objects = iou[1:] if present[0] else iou
    return Overlap(
        mean_iou=float(iou.mean()),
        object_iou=float(objects.mean()) if len(objects) else 0.0,
        pixel_accuracy=scores.pixel_accuracy,
    )
