"""Losses of Mask R-CNN, for whole batches on the device and without a Python loop over images.

Assignment and sampling follow Faster R-CNN (arXiv:1506.01497): anchors are positive from IoU 0.7,
or when they are an object's best, negative below 0.3; RoIs are positive from 0.5. Objects are
padded to a fixed number per image, label -1 marks the padding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from model.boxes import (
    ANCHOR_STRIDES,
    ROI_STDS,
    RPN_STDS,
    decode_boxes,
    encode_boxes,
    level_anchors,
)
from model.mask_rcnn import MaskRCNN
from model.roi_heads import BOX_POOL, MASK_POOL, pool_rois

MASK_SIDE = 2 * MASK_POOL


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many anchors and RoIs per image take part."""

    anchors: int = 256
    anchor_positives: int = 128
    candidates_per_level: int = 160
    proposals: int = 300
    rois: int = 96
    roi_positives: int = 32


@dataclass(frozen=True, slots=True)
class Targets:
    """Objects of a batch: boxes (B, N, 4), labels (B, N), -1 unused, instances (B, H, W)."""

    boxes: Tensor
    labels: Tensor
    instances: Tensor


def detection_losses(
    network: MaskRCNN, images: Tensor, targets: Targets, sampling: Sampling
) -> dict[str, Tensor]:
    """The five losses of one batch.

    Args:
        network: in training mode.
        images: (B, 3, H, W) normalised, H and W multiples of 32.
    """
    pyramid = network.pyramid(images)
    logits, deltas = network.rpn(pyramid)
    hw = (images.shape[2], images.shape[3])
    losses, anchors, scores, flat_deltas, sizes = _rpn_losses(logits, deltas, targets, sampling)
    with torch.no_grad():
        proposals, valid = batch_proposals(anchors, scores, flat_deltas, sizes, hw, sampling)
        rois, labels, matched, usable = sample_rois(proposals, valid, targets, sampling)
    losses |= _box_losses(network, pyramid, rois, labels, matched, usable, targets)
    count = sampling.roi_positives
    losses["mask"] = _mask_loss(
        network, pyramid, rois[:, :count], labels[:, :count], matched[:, :count], targets
    )
    return losses


def _rpn_losses(
    logits: list[Tensor], deltas: list[Tensor], targets: Targets, sampling: Sampling
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, list[int]]:
    batch = len(logits[0])
    anchors = [
        level_anchors(x.shape[2], x.shape[3], stride, device=x.device)
        for x, stride in zip(logits, ANCHOR_STRIDES, strict=True)
    ]
    sizes = [len(level) for level in anchors]
    every = torch.cat(anchors)
    scores = torch.cat([x.permute(0, 2, 3, 1).reshape(batch, -1) for x in logits], 1).float()
    regressed = torch.cat(
        [
            x.view(batch, -1, 4, *x.shape[2:]).permute(0, 3, 4, 1, 2).reshape(batch, -1, 4)
            for x in deltas
        ],
        1,
    ).float()
    positive, negative, matched = assign_anchors(every, targets)
    chosen_pos, is_pos = choose(positive, sampling.anchor_positives)
    wanted = sampling.anchors - is_pos.sum(1, keepdim=True)
    chosen_neg, is_neg = choose(negative, sampling.anchors)
    is_neg = is_neg & (torch.arange(sampling.anchors, device=wanted.device) < wanted)
    total = (is_pos.sum() + is_neg.sum()).clamp(min=1)
    positive_part = F.softplus(-scores.gather(1, chosen_pos)) * is_pos
    negative_part = F.softplus(scores.gather(1, chosen_neg)) * is_neg
    goal = targets.boxes.gather(1, _expand(matched.gather(1, chosen_pos)))
    encoded = encode_boxes(every[chosen_pos], _solid(goal), RPN_STDS)
    picked = regressed.gather(1, _expand(chosen_pos))
    box = F.smooth_l1_loss(picked, encoded, beta=1 / 9, reduction="none").sum(-1) * is_pos
    losses = {
        "rpn_class": (positive_part.sum() + negative_part.sum()) / total,
        "rpn_box": box.sum() / total,
    }
    return losses, every, scores.detach(), regressed.detach(), sizes


def assign_anchors(anchors: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    """Which anchors are positive and negative, (B, A) bool, and their objects, (B, A) int64."""
    used = targets.labels >= 0
    iou = _iou(targets.boxes, anchors.expand(len(used), -1, -1)) * used.unsqueeze(2)
    best, matched = iou.max(dim=1)
    positive, negative = best >= 0.7, best < 0.3
    top = iou.amax(dim=2, keepdim=True)
    forced = (iou >= top - 1e-5) & (top > 0.1)
    # an object's best anchors are its own, even if another object overlaps them more
    owner = forced.float().argmax(dim=1)
    any_forced = forced.any(dim=1)
    matched = torch.where(any_forced, owner, matched)
    return positive | any_forced, negative & ~any_forced, matched


def choose(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` random set positions per row: indices (B, count), and which are real."""
    order = torch.rand(mask.shape, device=mask.device).masked_fill_(~mask, -1.0)
    value, index = order.topk(min(count, mask.shape[1]), dim=1)
    if value.shape[1] < count:
        value = F.pad(value, (0, count - value.shape[1]), value=-1.0)
        index = F.pad(index, (0, count - index.shape[1]))
    return index, value >= 0


def batch_proposals(
    anchors: Tensor,
    scores: Tensor,
    deltas: Tensor,
    sizes: list[int],
    image_hw: tuple[int, int],
    sampling: Sampling,
) -> tuple[Tensor, Tensor]:
    """Proposals of a whole batch with one suppression: (B, P, 4) and which are real, (B, P)."""
    batch, start = len(scores), 0
    boxes, values, groups = [], [], []
    image = torch.arange(batch, device=scores.device).unsqueeze(1)
    for level, size in enumerate(sizes):
        part = scores[:, start : start + size]
        value, index = part.topk(min(sampling.candidates_per_level, size), dim=1)
        index = index + start
        delta = deltas.gather(1, _expand(index))
        boxes.append(decode_boxes(anchors[index], delta, RPN_STDS, image_hw))
        values.append(value)
        groups.append((image * len(sizes) + level).expand_as(index))
        start += size
    box, value = torch.cat(boxes, 1), torch.cat(values, 1)
    group = torch.cat(groups, 1)
    # groups far apart instead of one suppression per group: one launch for the whole batch
    apart = group.unsqueeze(2) * (2.0 * max(image_hw))
    keep = nms((box + apart).flatten(0, 1), value.flatten(), 0.7)
    owner = keep // box.shape[1]
    order = torch.sort(owner, stable=True).indices
    keep, owner = keep[order], owner[order]
    starts = torch.searchsorted(owner, image.squeeze(1))
    rank = torch.arange(len(keep), device=keep.device) - starts[owner]
    inside = rank < sampling.proposals
    out = box.new_zeros(batch, sampling.proposals, 4)
    valid = torch.zeros(batch, sampling.proposals, dtype=torch.bool, device=box.device)
    out[owner[inside], rank[inside]] = box.flatten(0, 1)[keep[inside]]
    valid[owner[inside], rank[inside]] = True
    return out, valid


def sample_rois(
    proposals: Tensor, valid: Tensor, targets: Targets, sampling: Sampling
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Proposals and objects -> a fixed number of RoIs per image, positives first.

    Returns:
        rois (B, R, 4); labels (B, R), -1 for background; the objects they belong to (B, R); and
        which take part (B, R).
    """
    used = targets.labels >= 0
    rois = torch.cat((proposals, targets.boxes), 1)
    valid = torch.cat((valid, used), 1)
    iou = _iou(targets.boxes, rois) * used.unsqueeze(2)
    best, matched = iou.max(dim=1)
    solid = ((rois[..., 2:] - rois[..., :2]) > 1).all(-1)
    valid = valid & solid
    positive, is_pos = choose(valid & (best >= 0.5), sampling.roi_positives)
    negative, is_neg = choose(valid & (best < 0.5), sampling.rois - sampling.roi_positives)
    index = torch.cat((positive, negative), 1)
    objects = matched.gather(1, index)
    labels = targets.labels.gather(1, objects)
    labels[:, sampling.roi_positives :] = -1
    labels[:, : sampling.roi_positives][~is_pos] = -1
    usable = torch.cat((is_pos, is_neg), 1)
    chosen = torch.where(usable.unsqueeze(2), rois.gather(1, _expand(index)), _dummy(rois))
    return chosen, labels, objects, usable


def _box_losses(
    network: MaskRCNN,
    pyramid: list[Tensor],
    rois: Tensor,
    labels: Tensor,
    matched: Tensor,
    usable: Tensor,
    targets: Targets,
) -> dict[str, Tensor]:
    logits, deltas = network.box_head(pool_rois(pyramid, list(rois), BOX_POOL))
    logits, deltas = logits.float(), deltas.float()
    num_classes = logits.shape[1] - 1
    flat, weight = labels.flatten(), usable.flatten().float()
    goal = torch.where(flat >= 0, flat, num_classes)
    classes = F.cross_entropy(logits, goal, reduction="none") * weight
    is_object = (flat >= 0).float()
    own = deltas.view(-1, num_classes, 4)[
        torch.arange(len(flat), device=flat.device), flat.clamp(min=0)
    ]
    boxes = targets.boxes.gather(1, _expand(matched)).flatten(0, 1)
    encoded = encode_boxes(rois.flatten(0, 1), _solid(boxes), ROI_STDS)
    box = F.smooth_l1_loss(own, encoded, beta=1.0, reduction="none").sum(-1) * is_object
    total = weight.sum().clamp(min=1)
    return {"class": classes.sum() / total, "box": box.sum() / total}


def _mask_loss(
    network: MaskRCNN,
    pyramid: list[Tensor],
    rois: Tensor,
    labels: Tensor,
    matched: Tensor,
    targets: Targets,
) -> Tensor:
    logits = network.mask_head(pool_rois(pyramid, list(rois), MASK_POOL))
    flat = labels.flatten()
    own = logits[torch.arange(len(flat), device=flat.device), flat.clamp(min=0)].float()
    goal = mask_targets(rois, matched, targets.instances)
    loss = F.binary_cross_entropy_with_logits(own, goal, reduction="none").mean((1, 2))
    is_object = (flat >= 0).float()
    return (loss * is_object).sum() / is_object.sum().clamp(min=1)


def mask_targets(rois: Tensor, matched: Tensor, instances: Tensor) -> Tensor:
    """(B, R, 4) RoIs and their objects -> (B * R, 28, 28) masks, 0 or 1."""
    batch, count = matched.shape
    side = instances.shape[1:]
    image = torch.arange(batch, device=rois.device, dtype=rois.dtype).repeat_interleave(count)
    x1, y1, x2, y2 = rois.flatten(0, 1).unbind(-1)
    centres = (torch.arange(MASK_SIDE, device=rois.device) + 0.5) / MASK_SIDE
    col = (x1.unsqueeze(1) + (x2 - x1).unsqueeze(1) * centres).long().clamp(0, side[1] - 1)
    row = (y1.unsqueeze(1) + (y2 - y1).unsqueeze(1) * centres).long().clamp(0, side[0] - 1)
    found = instances[image.long().view(-1, 1, 1), row.unsqueeze(2), col.unsqueeze(1)]
    return (found == (matched.flatten() + 1).view(-1, 1, 1)).float()


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """(B, N, 4), (B, M, 4) -> (B, N, M)."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    return inter / (area_a[:, :, None] + area_b[:, None] - inter).clamp(min=1e-6)


def _expand(index: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, 4)


def _solid(boxes: Tensor) -> Tensor:
    """Boxes with at least one pixel on each side, so that padding encodes to finite numbers."""
    return torch.cat((boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)), -1)


def _dummy(rois: Tensor) -> Tensor:
    return rois.new_tensor([0.0, 0.0, 16.0, 16.0])
