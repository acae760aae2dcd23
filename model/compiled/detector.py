"""Mask R-CNN after the backbone, wholly on the device: fixed shapes, no word to the host.

The answer is that of `model.mask_rcnn.MaskRCNN` up to rounding. Every tensor's shape follows from
the plan, absent rows are marked instead of left out, and nothing reads a value back: one CUDA graph
can hold everything from the backbone's maps to the final boxes and mask logits.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from model.compiled.detect_types import DetectControls, DetectPlan, DetectTensors
from model.compiled.proposals import ProposalStage, PyramidStage, plan_anchors
from model.compiled.roi_stage import BoxStage, MaskStage
from model.mask_rcnn import MaskRCNN
from model.rpn import CANDIDATES_PER_LEVEL

# the published limit, and what `DetectParams` asks for by default
PROPOSALS: Final = 1000
# the scratch of the suppression grows with the square: 2 MiB per image with this many
PAIRS: Final = 4096


class CompiledDetectorHead:
    """Needs a GPU, or Triton's interpreter.

    `__call__` may be captured once `plan` was made and the same call ran before (kernels are
    compiled and libraries initialised on the first run).

    Where `DetectTensors.is_truncated` is set, the exact answer needs `MaskRCNN` itself on the same
    maps; that takes low thresholds or an untrained model.

    Args:
        network: as `model.inference.optimise_for_inference` leaves it; its weights are copied.
        dtype: of the maps, the weights and the products; boxes and scores are float32.
        candidates: anchors per level that are decoded.
        proposals: RoIs per image.
        pairs: (RoI, class) pairs per image that compete.
    """

    def __init__(
        self,
        network: MaskRCNN,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        candidates: int = CANDIDATES_PER_LEVEL,
        proposals: int = PROPOSALS,
        pairs: int = PAIRS,
    ) -> None:
        self._device = device
        self._candidates = candidates
        self._proposals = proposals
        self._pairs = pairs
        with torch.no_grad():
            self._pyramid = PyramidStage(network.fpn, dtype=dtype, device=device)
            self._propose = ProposalStage(network.rpn, dtype=dtype, device=device)
            self._boxes = BoxStage(network.box_head, dtype=dtype, device=device)
            self._masks = MaskStage(network.mask_head, dtype=dtype, device=device)

    def plan(
        self,
        batch: int,
        feature_hws: Sequence[tuple[int, int]],
        *,
        capacity: int = 100,
        with_masks: bool = True,
    ) -> DetectPlan:
        """The constants of one graph; copies to the device, so not during a capture.

        Args:
            batch: images.
            feature_hws: height and width of the backbone's four maps, cells.
            capacity: rows of the answer per image; `max_detections` must not exceed it.
            with_masks: False leaves the mask head out.

        Raises:
            ValueError: more capacity than pairs can compete.
        """
        height, width = feature_hws[-1]
        level_hws = (*feature_hws, (-(-height // 2), -(-width // 2)))
        proposals = min(self._proposals, len(level_hws) * self._candidates)
        pairs = min(self._pairs, proposals * self._boxes.num_classes)
        if capacity > pairs:
            raise ValueError(f"capacity is {capacity}, but at most {pairs} pairs compete")
        return DetectPlan(
            batch=batch,
            level_hws=level_hws,
            capacity=capacity,
            with_masks=with_masks,
            candidates=self._candidates,
            proposals=proposals,
            pairs=pairs,
            image=torch.arange(batch, dtype=torch.int32, device=self._device)[:, None],
            slot=torch.arange(max(proposals, capacity), device=self._device),
            **plan_anchors(batch, level_hws, device=self._device),
        )

    @torch.inference_mode()
    def __call__(
        self, features: Sequence[Tensor], controls: DetectControls, plan: DetectPlan
    ) -> DetectTensors:
        """Detect.

        Args:
            features: four (B, H_i, W_i, C_i) maps of the backbone in the head's dtype, after
                their norms.
            controls: of this batch.
            plan: made by this head for these shapes.

        Raises:
            ValueError: maps of other shapes than planned.
        """
        found = tuple(tuple(x.shape[:3]) for x in features)
        planned = tuple((plan.batch, *hw) for hw in plan.level_hws[:4])
        if found != planned:
            raise ValueError(f"planned for maps of {planned}, got {found}")
        limits = controls.image_hw.flip(1).repeat(1, 2)
        pyramid = self._pyramid(features)
        proposals = self._propose(pyramid, limits, controls, plan)
        boxes = self._boxes(pyramid, proposals, limits, controls, plan)
        if not plan.with_masks:
            return boxes
        return replace(boxes, mask_logits=self._masks(pyramid, boxes, plan))
