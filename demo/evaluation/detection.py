"""Average precision of boxes and masks, computed by pycocotools."""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from demo.compose import Scene
from model.results import Detections

_MAP: Final = 0
_MAP50: Final = 1


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
        found.extend(_found(image_id, answer))
    if not images:
        raise ValueError("no answers to measure")
    if not found:
        return AveragePrecision(0.0, 0.0, 0.0, 0.0)
    # pycocotools reports its progress by printing
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": images,
            "annotations": truths,
            "categories": [{"id": i, "name": name} for i, name in enumerate(class_names)],
        }
        reference.createIndex()
        # where results carry boxes pycocotools takes sizes from these, so masks go in without
        box = _stats(reference, reference.loadRes(found), "bbox")
        mask = _stats(reference, reference.loadRes(_mask_only(found)), "segm")
    return AveragePrecision(box[_MAP], box[_MAP50], mask[_MAP], mask[_MAP50])


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


def _found(image_id: int, answer: Detections) -> list[dict[str, Any]]:
    if answer.masks is None:
        raise ValueError("the detections have no masks")
    return [
        {
            "image_id": image_id,
            "category_id": int(class_id),
            "score": float(score),
            "bbox": _xywh(box),
            "segmentation": {"size": [mask.height, mask.width], "counts": mask.counts},
        }
        for box, score, class_id, mask in zip(
            answer.boxes, answer.scores, answer.class_ids, answer.masks, strict=True
        )
    ]


def _mask_only(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "bbox"} for entry in found]


def _xywh(box: NDArray[np.float32]) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def _stats(reference: COCO, results: COCO, kind: str) -> list[float]:
    evaluation = COCOeval(reference, results, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats]
