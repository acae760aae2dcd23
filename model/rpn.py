"""Region proposal network: objectness and boxes for every anchor, then the best ones."""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from model.boxes import ANCHOR_RATIOS, ANCHOR_STRIDES, RPN_STDS, decode_boxes, level_anchors

CANDIDATES_PER_LEVEL: Final = 1000
PROPOSAL_NMS_IOU: Final = 0.7


class RegionProposalNetwork(nn.Module):
    """The convolutional head shared by all pyramid levels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        anchors = len(ANCHOR_RATIOS)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Five (B, C, H_i, W_i) -> per level: logits (B, 3, H_i, W_i), deltas (B, 12, H_i, W_i)."""
        hidden = [F.relu(self.conv(x)) for x in pyramid]
        return [self.objectness(x) for x in hidden], [self.deltas(x) for x in hidden]


def select_proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_hw: tuple[int, int],
    *,
    max_proposals: int,
) -> tuple[Tensor, Tensor]:
    """Decode one image's anchors and keep the best boxes.

    Args:
        logits: per level (3, H_i, W_i).
        deltas: per level (12, H_i, W_i), anchor-major.
        image_hw: resized, unpadded image; boxes are clipped to it.
        max_proposals: kept after the suppression over all levels.

    Returns:
        (P, 4) float32 boxes in the resized image and (P,) scores, falling.
    """
    boxes, scores, levels = [], [], []
    strides = ANCHOR_STRIDES[: len(logits)]
    for level, (logit, delta, stride) in enumerate(zip(logits, deltas, strides, strict=True)):
        height, width = logit.shape[1:]
        score = logit.permute(1, 2, 0).reshape(-1).float().sigmoid()
        delta = delta.view(-1, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4).float()
        count = min(CANDIDATES_PER_LEVEL, score.numel())
        score, best = score.topk(count)
        anchors = level_anchors(height, width, stride, device=logit.device)
        boxes.append(decode_boxes(anchors[best], delta[best], RPN_STDS, image_hw))
        scores.append(score)
        levels.append(torch.full_like(best, level))
    return _suppress(torch.cat(boxes), torch.cat(scores), torch.cat(levels), max_proposals)


def _suppress(
    boxes: Tensor, scores: Tensor, levels: Tensor, max_proposals: int
) -> tuple[Tensor, Tensor]:
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, levels = boxes[solid], scores[solid], levels[solid]
    keep = batched_nms(boxes, scores, levels, PROPOSAL_NMS_IOU)[:max_proposals]
    return boxes[keep], scores[keep]
