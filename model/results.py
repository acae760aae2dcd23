"""What goes into a task besides the image, and what comes out. Plain data, no device, no HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.config import TaskName


@dataclass(frozen=True, slots=True)
class ClassifyParams:
    """Classification has nothing to choose before the scores exist."""


@dataclass(frozen=True, slots=True)
class DetectParams:
    """Thresholds and caps of Mask R-CNN; the defaults are the published test configuration.

    Attributes:
        score_threshold: (RoI, class) pairs with a higher probability compete, 0..1.
        nms_iou: overlap above which the lower-scored box of the same class is dropped, 0..1.
        max_detections: at most this many boxes per image.
        max_proposals: at most this many RPN boxes per image.
        with_masks: False skips the mask head.
    """

    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100
    max_proposals: int = 1000
    with_masks: bool = True


@dataclass(frozen=True, slots=True)
class SegmentParams:
    """Segmentation has nothing to choose before the class map exists."""


Params = ClassifyParams | DetectParams | SegmentParams

DEFAULT_PARAMS: Final[Mapping[TaskName, Params]] = MappingProxyType(
    {
        TaskName.CLASSIFY: ClassifyParams(),
        TaskName.DETECT: DetectParams(),
        TaskName.SEGMENT: SegmentParams(),
    }
)


@dataclass(frozen=True, slots=True)
class Classification:
    """Probabilities: (num_classes,) float32, softmax over all classes, sums to 1."""

    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rle:
    """One instance mask as COCO compressed run lengths.

    Attributes:
        height: of the upright original image, pixels.
        width: of the upright original image, pixels.
        counts: ASCII string as pycocotools writes it; column-major, first run counts zeros.
    """

    height: int
    width: int
    counts: str


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects of one image, by falling score.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the upright original image.
        scores: (N,) float32, 0..1.
        class_ids: (N,) int64.
        masks: N run-length masks, or None when they were not asked for.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    masks: tuple[Rle, ...] | None


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Class map: (H, W) uint8 at the size of the upright original image."""

    label_map: NDArray[np.uint8]


Result = Classification | Detections | Segmentation
