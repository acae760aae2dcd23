"""RoI pooling over the pyramid, the box head and the mask head of Mask R-CNN (arXiv:1703.06870)."""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, roi_align

from model.boxes import ANCHOR_STRIDES, ROI_STDS, decode_boxes
from model.results import DetectParams

FINEST_SCALE: Final = 56
NUM_ROI_LEVELS: Final = 4
BOX_POOL: Final = 7
MASK_POOL: Final = 14


def assign_levels(rois: Tensor) -> Tensor:
    """Pyramid level of each RoI: floor(log2(sqrt(w h) / 56 + 1e-6)), limited to 0..3.

    Args:
        rois: (R, 4) x1 y1 x2 y2 in the resized image.

    Returns:
        (R,) int64.
    """
    scale = ((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])).sqrt()
    return torch.log2(scale / FINEST_SCALE + 1e-6).floor().clamp(0, NUM_ROI_LEVELS - 1).long()


def pool_rois(pyramid: Sequence[Tensor], rois: Sequence[Tensor], size: int) -> Tensor:
    """RoIAlign (half-pixel shift, adaptive sampling) of each box from its own level.

    Args:
        pyramid: levels (B, C, H_i, W_i), strides 4, 8, ...; the first four are used.
        rois: per image (R_b, 4) in the resized image.
        size: bins per side.

    Returns:
        (sum R_b, C, size, size), images in order.
    """
    index = torch.cat([box.new_full((len(box), 1), b) for b, box in enumerate(rois)])
    flat = torch.cat([index, torch.cat(list(rois))], dim=1)
    levels = assign_levels(flat[:, 1:])
    pooled = pyramid[0].new_zeros((len(flat), pyramid[0].shape[1], size, size))
    for level, stride in enumerate(ANCHOR_STRIDES[:NUM_ROI_LEVELS]):
        chosen = (levels == level).nonzero().squeeze(1)
        pooled[chosen] = roi_align(
            pyramid[level],
            flat[chosen].to(pyramid[level].dtype),
            output_size=size,
            spatial_scale=1 / stride,
            sampling_ratio=0,
            aligned=True,
        )
    return pooled


class BoxHead(nn.Module):
    """Two fully connected layers, then class logits and class-specific deltas."""

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * BOX_POOL**2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.classify = nn.Linear(hidden, num_classes + 1)
        self.regress = nn.Linear(hidden, 4 * num_classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C, 7, 7) -> logits (R, K + 1), background last; deltas (R, 4 K), class-major."""
        x = F.relu(self.fc1(pooled.flatten(1)))
        x = F.relu(self.fc2(x))
        return self.classify(x), self.regress(x)


class MaskHead(nn.Module):
    """Convolutions, one up-sampling step, one logit map per class."""

    def __init__(self, channels: int, num_convs: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(num_convs)
        )
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, 14, 14) -> (R, K, 28, 28) logits."""
        for conv in self.convs:
            pooled = F.relu(conv(pooled))
        logits: Tensor = self.classify(F.relu(self.upsample(pooled)))
        return logits


def select_detections(
    rois: Tensor, logits: Tensor, deltas: Tensor, image_hw: tuple[int, int], params: DetectParams
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn one image's box-head outputs into its final boxes.

    Every (RoI, class) pair above the threshold competes; suppression runs per class.

    Args:
        rois: (R, 4) in the resized image.
        logits: (R, K + 1), background last.
        deltas: (R, 4 K).
        image_hw: resized, unpadded image.

    Returns:
        boxes (N, 4) in the resized image, scores (N,) falling, class ids (N,) int64.
    """
    num_classes = logits.shape[1] - 1
    probabilities = logits.float().softmax(dim=1)[:, :num_classes]
    roi, class_id = (probabilities > params.score_threshold).nonzero(as_tuple=True)
    scores = probabilities[roi, class_id]
    own = deltas.view(-1, num_classes, 4)[roi, class_id].float()
    boxes = decode_boxes(rois[roi], own, ROI_STDS, image_hw)
    keep = batched_nms(boxes, scores, class_id, params.nms_iou)[: params.max_detections]
    return boxes[keep], scores[keep], class_id[keep]
