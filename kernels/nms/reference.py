"""Greedy non-maximum suppression of several groups of boxes: the truth, slow on purpose."""

import torch
from torch import Tensor


def batched_nms_ref(
    boxes: Tensor, valid: Tensor, threshold: Tensor, classes: Tensor | None = None
) -> Tensor:
    """Keep a box when no kept box before it in its group overlaps it too much.

    Box i falls to a kept box j < i when area(i and j) / area(i or j) > threshold, with `classes`
    only if both are of the same class. Boxes without area overlap nothing.

    Args:
        boxes: (G, N, 4) float32, x1 y1 x2 y2, per group by falling score.
        valid: (G, N) bool; other boxes are not kept and suppress nothing.
        threshold: (G,) float32, 0..1.
        classes: (G, N) int32 or None: all boxes of a group compete.

    Returns:
        (G, N) bool, the kept boxes; shapes do not depend on the values.

    Source: `torchvision.ops.nms`, whose rule and arithmetic this is.
    """
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    keep = valid.clone()
    for group in range(boxes.shape[0]):
        for i in range(boxes.shape[1]):
            if not keep[group, i]:
                continue
            low = torch.maximum(boxes[group, i, :2], boxes[group, i + 1 :, :2])
            high = torch.minimum(boxes[group, i, 2:], boxes[group, i + 1 :, 2:])
            shared = (high - low).clamp(min=0).prod(dim=-1)
            union = area[group, i] + area[group, i + 1 :] - shared
            falls = (union > 0) & (shared / union > threshold[group])
            if classes is not None:
                falls &= classes[group, i] == classes[group, i + 1 :]
            keep[group, i + 1 :] &= ~falls
    return keep
