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
    """`edges_to_rles` of one mask."""
    return edges_to_rles(edges, np.array([len(edges)]), image_hw)[0]


def edges_to_rles(
    edges: NDArray[np.integer], ends: NDArray[np.integer], image_hw: tuple[int, int]
) -> tuple[Rle, ...]:
    """Compressed COCO run lengths of masks that change at these positions.

    Of all masks at once: a hundred objects one by one would keep the interpreter busy for longer
    than a GPU needs to find them.

    Args:
        edges: column * height + row, rising within a mask, one mask after the other; see
            `kernels.mask_runs.reference`.
        ends: (M,) where the edges of each mask end.
        image_hw: height and width of the image.
    """
    height, width = image_hw
    runs, sizes = _run_lengths(edges.astype(np.int64), ends, height * width)
    text, lengths = _coco_text(_coco_differences(runs, sizes))
    stops = lengths.cumsum()[sizes.cumsum() - 1].tolist()
    starts = [0, *stops]
    return tuple(Rle(height, width, text[starts[i] : stop]) for i, stop in enumerate(stops))


def _run_lengths(
    edges: NDArray[np.int64], ends: NDArray[np.integer], total: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths of all runs, and how many each mask has; at least one each."""
    owner = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    # a run that ends at the bottom of one column and goes on at the top of the next is one run
    joined = np.flatnonzero((edges[1:] == edges[:-1]) & (owner[1:] == owner[:-1]))
    kept = np.ones(len(edges), dtype=np.bool_)
    kept[joined] = kept[joined + 1] = False
    edges = edges[kept]
    sizes = np.bincount(owner[kept], minlength=len(ends))
    # the last run is left out when it is empty, as COCO's own encoder does
    is_open = np.ones(len(ends), dtype=np.bool_)
    is_open[sizes > 0] = edges[sizes.cumsum()[sizes > 0] - 1] != total
    stops = np.insert(edges, sizes.cumsum()[is_open], total)
    sizes = sizes + is_open
    runs = np.diff(stops, prepend=0)
    firsts = sizes.cumsum() - sizes
    runs[firsts] = stops[firsts]
    return runs, sizes


def _coco_differences(runs: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """From the fourth run of a mask on COCO writes the difference to the one before the last."""
    place = np.arange(len(runs)) - np.repeat(sizes.cumsum() - sizes, sizes)
    later = np.flatnonzero(place > 2)
    values = runs.copy()
    values[later] -= runs[later - 2]
    return values


def _coco_text(values: NDArray[np.int64]) -> tuple[str, NDArray[np.int64]]:
    """Numbers as COCO writes them, and the characters of each.

    A character holds five bits, the lowest first, and a sixth where more follow; the last one's
    highest bit is the sign.
    """
    lengths = np.ones(len(values), dtype=np.int64)
    bits = 4
    while (more := (values >> bits != 0) & (values >> bits != -1)).any():
        lengths += more
        bits += 5
    ends = lengths.cumsum()
    text = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    for digit in range(int(lengths.max(initial=0))):
        at = np.flatnonzero(lengths > digit)
        follows = (lengths[at] > digit + 1) << 5
        text[ends[at] - lengths[at] + digit] = 48 + ((values[at] >> 5 * digit & 31) | follows)
    return text.tobytes().decode("ascii"), lengths


def rle_to_mask(rle: Rle) -> NDArray[np.bool_]:
    """(H, W) bool, the inverse of `patch_to_rle`."""
    packed = {"size": [rle.height, rle.width], "counts": rle.counts.encode("ascii")}
    return np.asarray(coco.decode(packed), dtype=np.bool_)
