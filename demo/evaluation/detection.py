"""Average precision of boxes and masks on composed scenes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from demo.compose import Scene
from model.evaluation.detection import COCO_METRICS, CocoReference, coco_results
from model.results import Detections

_AP: Final = COCO_METRICS.index("AP")
_AP50: Final = COCO_METRICS.index("AP50")


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO average precision, 0..1: over IoU 0.50:0.95, and at IoU 0.50."""

    box: float
    box50: float
    mask: float
    mask50: float


def average_precision(
    answers: Iterable[tuple[Detections, Scene]], class_names: tuple[str, ...]
) -> AveragePrecision:
    """Compare detections with the objects of the scenes.

    Raises:
        ValueError: no answers, or answers without masks.
    """
    images: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image_id, (answer, scene) in enumerate(answers, start=1):
        height, width = scene["semantic"].shape
        images.append({"id": image_id, "height": height, "width": width})
        truths.extend(_truths(image_id, len(truths) + 1, scene))
        found.extend(coco_results(image_id, answer, range(len(class_names))))
    if not images:
        raise ValueError("no answers to measure")
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names)]
    reference = CocoReference({"images": images, "annotations": truths, "categories": categories})
    scores = reference.scores(found)
    return AveragePrecision(
        scores.box[_AP], scores.box[_AP50], scores.mask[_AP], scores.mask[_AP50]
    )


def _truths(image_id: int, first_id: int, scene: Scene) -> list[dict[str, Any]]:
    entries = []
    for i, (box, label, mask) in enumerate(
        zip(scene["boxes"], scene["labels"], scene["masks"], strict=True)
    ):
        entries.append(
            {
                "id": first_id + i,
                "image_id": image_id,
                "category_id": int(label),
                "bbox": _xywh(box),
                "area": float(mask.sum()),
                "segmentation": rle.encode(np.asfortranarray(mask.astype(np.uint8))),
                "iscrowd": 0,
            }
        )
    return entries


def _xywh(box: NDArray[np.float32]) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]
