"""Anchors and the box coder of Faster R-CNN (arXiv:1506.01497), published settings."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

ANCHOR_SCALE: Final = 8
ANCHOR_RATIOS: Final = (0.5, 1.0, 2.0)
ANCHOR_STRIDES: Final = (4, 8, 16, 32, 64)
MAX_LOG_SCALE: Final = abs(math.log(16 / 1000))
RPN_STDS: Final = (1.0, 1.0, 1.0, 1.0)
ROI_STDS: Final = (0.1, 0.1, 0.2, 0.2)


def level_anchors(
    height: int, width: int, stride: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Anchors of one pyramid level: scale 8 x stride, ratios h/w 0.5, 1, 2, no half-pixel shift.

    Args:
        height: of the feature map, cells.
        width: of the feature map, cells.
        stride: pixels per cell.

    Returns:
        (height * width * 3, 4) float32, x1 y1 x2 y2 in pixels; order row, column, ratio.
    """
    ratios = torch.tensor(ANCHOR_RATIOS, dtype=torch.float32, device=device).sqrt()
    half_w = 0.5 * stride * ANCHOR_SCALE / ratios
    half_h = 0.5 * stride * ANCHOR_SCALE * ratios
    base = torch.stack((-half_w, -half_h, half_w, half_h), dim=1)
    y = torch.arange(height, dtype=torch.float32, device=device) * stride
    x = torch.arange(width, dtype=torch.float32, device=device) * stride
    rows, cols = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack((cols, rows, cols, rows), dim=-1).reshape(-1, 1, 4)
    return (centres + base).reshape(-1, 4)


def decode_boxes(
    anchors: Tensor, deltas: Tensor, stds: Sequence[float], image_hw: tuple[int, int]
) -> Tensor:
    """Apply regression deltas to boxes and clip to the image.

    Args:
        anchors: (..., 4) x1 y1 x2 y2, pixels.
        deltas: (..., 4) dx dy (in units of the box's size), log scales dw dh; divided by `stds`.
        stds: per delta component.
        image_hw: height and width of the resized, unpadded image, pixels.

    Returns:
        (..., 4) x1 y1 x2 y2, pixels.
    """
    dx, dy, dw, dh = (deltas * deltas.new_tensor(stds)).unbind(-1)
    dw = dw.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE)
    dh = dh.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE)
    x1, y1, x2, y2 = anchors.unbind(-1)
    width, height = x2 - x1, y2 - y1
    centre_x = (x1 + x2) * 0.5 + width * dx
    centre_y = (y1 + y2) * 0.5 + height * dy
    half_w, half_h = width * dw.exp() * 0.5, height * dh.exp() * 0.5
    limit_h, limit_w = image_hw
    return torch.stack(
        (
            (centre_x - half_w).clamp(0, limit_w),
            (centre_y - half_h).clamp(0, limit_h),
            (centre_x + half_w).clamp(0, limit_w),
            (centre_y + half_h).clamp(0, limit_h),
        ),
        dim=-1,
    )


def encode_boxes(anchors: Tensor, boxes: Tensor, stds: Sequence[float]) -> Tensor:
    """The deltas that turn `anchors` into `boxes`: the inverse of `decode_boxes`, for training.

    Args:
        anchors: (..., 4) x1 y1 x2 y2 with positive width and height.
        boxes: (..., 4) x1 y1 x2 y2 with positive width and height.

    Returns:
        (..., 4).
    """
    aw, ah = anchors[..., 2] - anchors[..., 0], anchors[..., 3] - anchors[..., 1]
    bw, bh = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    dx = (boxes[..., 0] + boxes[..., 2] - anchors[..., 0] - anchors[..., 2]) * 0.5 / aw
    dy = (boxes[..., 1] + boxes[..., 3] - anchors[..., 1] - anchors[..., 3]) * 0.5 / ah
    deltas = torch.stack((dx, dy, torch.log(bw / aw), torch.log(bh / ah)), dim=-1)
    return deltas / deltas.new_tensor(stds)
