"""Logits to class map, as the published pipeline states it: two bilinear resizings, then argmax."""

import torch
import torch.nn.functional as F
from torch import Tensor


def label_map_ref(
    logits: Tensor, resized_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Tensor:
    """The class of the largest logit per pixel, the first of equals.

    Args:
        logits: (h, w, K), any float, K <= 256.
        resized_hw: size of the network's input before padding.
        original_hw: size of the photograph.

    Returns:
        (H, W) uint8 of `original_hw`.
    """
    return full_logits_ref(logits, resized_hw, original_hw).argmax(dim=2).to(torch.uint8)


def full_logits_ref(
    logits: Tensor, resized_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Tensor:
    """(h, w, K) -> (H, W, K) of `original_hw`, in the dtype of the logits."""
    maps = logits.permute(2, 0, 1).unsqueeze(0)
    for size in (resized_hw, original_hw):
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return maps[0].permute(1, 2, 0)
