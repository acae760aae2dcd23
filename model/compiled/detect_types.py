"""What goes into the compiled detector head and what comes out: tensors on the device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.results import DetectParams


@dataclass(frozen=True, slots=True)
class DetectControls:
    """What may differ between images and requests; a captured graph reads it anew every time.

    Attributes:
        image_hw: (B, 2) float32, height and width of the resized, unpadded images, pixels. An
            image of 0 x 0 pixels has no detections: a batch may be filled up with such images.
        score_threshold: (B,) float32, 0..1.
        nms_iou: (B,) float32, 0..1.
        max_detections: (B,) int32, at most the plan's `capacity`.
        max_proposals: (B,) int32, at most the plan's `proposals`; more is the same as that.
    """

    image_hw: Tensor
    score_threshold: Tensor
    nms_iou: Tensor
    max_detections: Tensor
    max_proposals: Tensor

    @classmethod
    def of(
        cls,
        image_hws: Sequence[tuple[int, int]],
        params: Sequence[DetectParams],
        *,
        device: torch.device | str = "cpu",
    ) -> "DetectControls":
        """New tensors; copy them into those of a graph, `fields` of both in the same order."""
        floats, ints = torch.float32, torch.int32
        return cls(
            image_hw=torch.tensor(image_hws, dtype=floats, device=device),
            score_threshold=torch.tensor(
                [own.score_threshold for own in params], dtype=floats, device=device
            ),
            nms_iou=torch.tensor([own.nms_iou for own in params], dtype=floats, device=device),
            max_detections=torch.tensor(
                [own.max_detections for own in params], dtype=ints, device=device
            ),
            max_proposals=torch.tensor(
                [own.max_proposals for own in params], dtype=ints, device=device
            ),
        )


@dataclass(frozen=True, slots=True)
class DetectPlan:
    """What a captured graph fixes: shapes, numbers of rows and the constants that belong to them.

    Attributes:
        batch: images, B.
        level_hws: height and width of the five pyramid levels, cells.
        capacity: rows of the answer per image, M.
        with_masks: whether mask logits are made.
        candidates: anchors per level that are decoded, k.
        proposals: RoIs per image, R.
        pairs: (RoI, class) pairs per image that compete in the end, P.
        anchors: (A, 4) float32 of one image, all levels.
        last_anchor: (5, 1) int64, the last anchor of each level, counted within the level.
        anchor_base: (5, 1) int64, rows of `anchors` before each level.
        row_base: (B, 5, 1) int64, rows of the RPN's answer before each level of each image.
        image: (B, 1) int32, 0..B - 1.
        slot: (max(R, M),) int64, 0...
    """

    batch: int
    level_hws: tuple[tuple[int, int], ...]
    capacity: int
    with_masks: bool
    candidates: int
    proposals: int
    pairs: int
    anchors: Tensor
    last_anchor: Tensor
    anchor_base: Tensor
    row_base: Tensor
    image: Tensor
    slot: Tensor


@dataclass(frozen=True, slots=True)
class DetectTensors:
    """Objects of a batch, M rows per image of which `counts` are in use and the others zero.

    Attributes:
        boxes: (B, M, 4) float32, x1 y1 x2 y2 in the resized image.
        scores: (B, M) float32, falling.
        class_ids: (B, M) int32.
        counts: (B,) int32.
        mask_logits: (B, M, 28, 28) float32 of each object's own class; None without masks.
        is_truncated: (B,) bool, true where `model.mask_rcnn.MaskRCNN` may have found more: fewer
            than `max_detections` boxes survived among the plan's `pairs` best pairs, yet more
            pairs than those were above the threshold; or `max_detections` exceeds `capacity`.
            What is here is a correct beginning even then.
    """

    boxes: Tensor
    scores: Tensor
    class_ids: Tensor
    counts: Tensor
    mask_logits: Tensor | None
    is_truncated: Tensor


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest along the last axis, falling, and their indices.

    The sort is stable, which that of `topk` is not: the order of equal scores must not depend on
    what else is in the batch.
    """
    values, index = values.topk(count, dim=-1, sorted=False)
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return values, index.gather(-1, order)
