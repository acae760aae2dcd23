"""Object detection with instance masks: Spatial-Mamba with FPN and Mask R-CNN."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels import FUSED, KernelOps
from model.backbone import Backbone
from model.config import Variant
from model.fpn import FeaturePyramid
from model.layers import to_nchw
from model.results import DetectParams
from model.roi_heads import (
    BOX_POOL,
    MASK_POOL,
    BoxHead,
    MaskHead,
    pool_rois,
    select_detections,
)
from model.rpn import RegionProposalNetwork, select_proposals


@dataclass(frozen=True, slots=True)
class RawDetections:
    """Objects of one image in the coordinates of the resized image.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2.
        scores: (N,) float32, falling.
        class_ids: (N,) int64.
        mask_logits: (N, 28, 28) float32 of each object's own class; None without masks.
    """

    boxes: Tensor
    scores: Tensor
    class_ids: Tensor
    mask_logits: Tensor | None


class MaskRCNN(nn.Module):
    """Two-stage detector. `forward` infers; training uses the submodules one by one."""

    def __init__(self, variant: Variant, num_classes: int, *, ops: KernelOps = FUSED) -> None:
        super().__init__()
        heads = variant.heads
        self.backbone = Backbone(variant.backbone, output_norms=True, ops=ops)
        self.fpn = FeaturePyramid(variant.backbone.dims, heads.fpn_channels)
        self.rpn = RegionProposalNetwork(heads.fpn_channels)
        self.box_head = BoxHead(heads.fpn_channels, heads.box_fc_channels, num_classes)
        self.mask_head = MaskHead(heads.fpn_channels, heads.mask_convs, num_classes)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised, padded -> five maps (B, C, ., .), strides 4..64."""
        maps: list[Tensor] = self.fpn([to_nchw(x) for x in self.backbone(images)])
        return maps

    def forward(
        self,
        images: Tensor,
        image_hws: Sequence[tuple[int, int]],
        params: Sequence[DetectParams],
    ) -> list[RawDetections]:
        """Detect.

        Args:
            images: (B, 3, H, W) normalised and zero-padded, all of one shape.
            image_hws: per image the height and width before padding, pixels.
            params: per image.

        Returns:
            per image its objects; the answer for one image does not depend on the others.
        """
        return self.detect(self.pyramid(images), image_hws, params)

    def detect(
        self,
        pyramid: Sequence[Tensor],
        image_hws: Sequence[tuple[int, int]],
        params: Sequence[DetectParams],
    ) -> list[RawDetections]:
        """`forward` after the feature pyramid: five (B, C, ., .) maps."""
        logits, deltas = self.rpn(pyramid)
        proposals = [
            select_proposals(
                [x[b] for x in logits],
                [x[b] for x in deltas],
                image_hws[b],
                max_proposals=params[b].max_proposals,
            )[0]
            for b in range(len(params))
        ]
        boxes, scores, class_ids = self._classify(pyramid, proposals, image_hws, params)
        masks = self._masks(pyramid, boxes, class_ids, params)
        return [
            RawDetections(*image) for image in zip(boxes, scores, class_ids, masks, strict=True)
        ]

    def _classify(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Tensor],
        image_hws: Sequence[tuple[int, int]],
        params: Sequence[DetectParams],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        counts = [len(rois) for rois in proposals]
        class_logits, box_deltas = self.box_head(pool_rois(pyramid, proposals, BOX_POOL))
        found = [
            select_detections(rois, logits, deltas, hw, own)
            for rois, logits, deltas, hw, own in zip(
                proposals,
                class_logits.split(counts),
                box_deltas.split(counts),
                image_hws,
                params,
                strict=True,
            )
        ]
        boxes, scores, class_ids = (list(part) for part in zip(*found, strict=True))
        return boxes, scores, class_ids

    def _masks(
        self,
        pyramid: Sequence[Tensor],
        boxes: Sequence[Tensor],
        class_ids: Sequence[Tensor],
        params: Sequence[DetectParams],
    ) -> list[Tensor | None]:
        wanted = [b for b, own in enumerate(params) if own.with_masks]
        masks: list[Tensor | None] = [None] * len(params)
        if not wanted:
            return masks
        # images without masks give no RoIs, so that image indices stay those of the batch
        rois = [box if params[b].with_masks else box[:0] for b, box in enumerate(boxes)]
        logits = self.mask_head(pool_rois(pyramid, rois, MASK_POOL))
        own = torch.cat([class_ids[b] for b in wanted])
        own_logits = logits[torch.arange(len(own), device=own.device), own].float()
        for b, part in zip(wanted, own_logits.split([len(boxes[b]) for b in wanted]), strict=True):
            masks[b] = part
        return masks
