"""Instance masks: 28 x 28 logits -> pixels of the original image -> COCO run lengths."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco
from torch import Tensor

from model.results import Rle


@dataclass(frozen=True, slots=True)
class MaskPatch:
    """The part of a mask that can be set; all pixels outside are zero.

    Attributes:
        pixels: (h, w) bool.
        top: row of the patch in the image.
        left: column of the patch in the image.
    """

    pixels: NDArray[np.bool_]
    top: int
    left: int


def paste_mask(logits: Tensor, box: Tensor, image_hw: tuple[int, int]) -> MaskPatch:
    """Sample a mask's probability at every pixel centre of its box; set where it is >= 0.5.

    Args:
        logits: (28, 28) float32 of the object's class.
        box: (4,) x1 y1 x2 y2 in the original image.
        image_hw: height and width of the original image.

    Returns:
        the patch; bilinear, align_corners False, zero outside the 28 x 28 grid.
    """
    height, width = image_hw
    x1, y1, x2, y2 = box.tolist()
    left, right = _span(x1, x2, width)
    top, bottom = _span(y1, y2, height)
    if right <= left or bottom <= top or x2 <= x1 or y2 <= y1:
        return MaskPatch(np.zeros((0, 0), dtype=np.bool_), 0, 0)
    x = (torch.arange(left, right, dtype=torch.float32) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack((x.expand(len(y), len(x)), y.unsqueeze(1).expand(len(y), len(x))), dim=-1)
    sampled = F.grid_sample(
        logits.sigmoid()[None, None], grid[None], mode="bilinear", align_corners=False
    )
    return MaskPatch((sampled[0, 0] >= 0.5).numpy(), top, left)


def _span(low: float, high: float, limit: int) -> tuple[int, int]:
    """Pixels that an interval can touch, one more on each side, inside 0..limit."""
    return max(0, int(np.floor(low)) - 1), min(limit, int(np.ceil(high)) + 1)


def patch_to_rle(patch: MaskPatch, image_hw: tuple[int, int]) -> Rle:
    """Compressed COCO run lengths of the whole image, computed from the patch's edges alone."""
    # column-major: one row of `columns` is one column of the image
    columns = np.pad(patch.pixels.T.astype(np.int8), ((0, 0), (1, 1)))
    column, row = np.nonzero(np.diff(columns, axis=1))
    return edges_to_rle((patch.left + column) * image_hw[0] + patch.top + row, image_hw)


def edges_to_rle(edges: NDArray[np.integer], image_hw: tuple[int, int]) -> Rle:
    """Compressed COCO run lengths of the mask that changes at these positions.

    Args:
        edges: column * height + row, rising; see `kernels.mask_runs.reference`.
        image_hw: height and width of the image.
    """
    height, width = image_hw
    # a run that ends at the bottom of one column and goes on at the top of the next is one run
    joined = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate((joined, joined + 1)))
    total = height * width
    # the last run is left out when it is empty, as COCO's own encoder does
    ends = edges if len(edges) and edges[-1] == total else np.append(edges, total)
    counts = np.diff(ends, prepend=0)
    packed = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return Rle(height, width, packed["counts"].decode("ascii"))


def rle_to_mask(rle: Rle) -> NDArray[np.bool_]:
    """(H, W) bool, the inverse of `patch_to_rle`."""
    packed = {"size": [rle.height, rle.width], "counts": rle.counts.encode("ascii")}
    return np.asarray(coco.decode(packed), dtype=np.bool_)
