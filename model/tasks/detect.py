"""Detection: fit into (long, short), pad; boxes and masks back to the original image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import InputConfig
from model.mask_rcnn import RawDetections
from model.masks import paste_mask, patch_to_rle
from model.resizing import resize_keep_ratio
from model.results import Detections, DetectParams, Params, Rle


class DetectTask:
    """Pure functions around `model.mask_rcnn.MaskRCNN`; see `model.predictor.Task`."""

    def resize(self, rgb: NDArray[np.uint8], config: InputConfig) -> NDArray[np.uint8]:
        return resize_keep_ratio(rgb, long=config.long or config.short, short=config.short)

    def infer(
        self, network: nn.Module, images: Tensor, batch: Sequence[Any], params: Sequence[Params]
    ) -> list[RawDetections]:
        """Per image its objects in resized coordinates, on the CPU.

        Raises:
            TypeError: parameters of another task.
        """
        own = [param for param in params if isinstance(param, DetectParams)]
        if len(own) != len(params):
            raise TypeError("detection needs DetectParams")
        found = network(images, [prepared.resized_hw for prepared in batch], own)
        return [_to_cpu(raw) for raw in found]

    def finish(self, raw: RawDetections, prepared: Any) -> Detections:
        boxes = to_original(raw.boxes, prepared.resized_hw, prepared.original_hw)
        return Detections(
            boxes=boxes.numpy(),
            scores=raw.scores.numpy(),
            class_ids=raw.class_ids.numpy(),
            masks=_masks(raw.mask_logits, boxes, prepared.original_hw),
        )


def to_original(boxes: Tensor, resized_hw: tuple[int, int], original_hw: tuple[int, int]) -> Tensor:
    """(N, 4) boxes of the resized image in pixels of the original; x and y scale by themselves."""
    scale_y = resized_hw[0] / original_hw[0]
    scale_x = resized_hw[1] / original_hw[1]
    return boxes / boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])


def _masks(
    logits: Tensor | None, boxes: Tensor, original_hw: tuple[int, int]
) -> tuple[Rle, ...] | None:
    if logits is None:
        return None
    return tuple(
        patch_to_rle(paste_mask(mask, box, original_hw), original_hw)
        for mask, box in zip(logits, boxes, strict=True)
    )


def _to_cpu(raw: RawDetections) -> RawDetections:
    return RawDetections(
        boxes=raw.boxes.cpu(),
        scores=raw.scores.cpu(),
        class_ids=raw.class_ids.cpu(),
        mask_logits=None if raw.mask_logits is None else raw.mask_logits.cpu(),
    )
