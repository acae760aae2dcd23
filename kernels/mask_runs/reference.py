"""Where the runs of pasted instance masks begin and end: the truth, slow on purpose."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_edges_ref(
    logits: Tensor, boxes: Tensor, sizes: Tensor, valid: Tensor, *, columns: int, capacity: int
) -> tuple[Tensor, Tensor]:
    """Paste each mask into its image, return where its pixels change, column after column.

    A pixel is set when the mask's probability, sampled bilinearly at the pixel's centre, is at
    least 0.5; outside the mask's grid the probability is zero. An edge is a pixel that differs from
    the one above it in its column; above and below the image nothing is set, so edges come in
    pairs: a run's first pixel, the first pixel after it. The latter is `height` rows down where a
    run reaches the bottom, the position of the next column's first pixel.

    Args:
        logits: (M, S, S) float32 of each object's own class.
        boxes: (M, 4) float32, x1 y1 x2 y2 in the original image, |coordinate| < 2^30.
        sizes: (M, 2) int32, height and width of the original image; height * width < 2^31.
        valid: (M,) bool; other masks have no edges.
        columns: no image of `sizes` is wider.
        capacity: room for edges. When all masks have more than that, the surplus is dropped;
            `ends[-1] > capacity` tells.

    Returns:
        edges (capacity,) int32, positions column * height + row, rising within a mask, the masks
        one after the other, the rest is undefined; and (M,) int32, where each mask's edges end.
    """
    found = [_edges_of_one(*mask) for mask in zip(logits, boxes, sizes, valid, strict=True)]
    counts = torch.tensor([len(edges) for edges in found], device=logits.device)
    flat = torch.cat(found)[:capacity]
    edges = torch.zeros(capacity, dtype=torch.int32, device=logits.device)
    edges[: len(flat)] = flat
    return edges, counts.cumsum(0).int()


def _edges_of_one(logits: Tensor, box: Tensor, size: Tensor, valid: Tensor) -> Tensor:
    height, width = size.tolist()
    x1, y1, x2, y2 = box
    if not valid or x2 <= x1 or y2 <= y1:
        return box.new_zeros(0, dtype=torch.int32)
    x = (torch.arange(width, dtype=box.dtype, device=box.device) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(height, dtype=box.dtype, device=box.device) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
    sampled = F.grid_sample(
        logits.sigmoid()[None, None], grid[None], mode="bilinear", align_corners=False
    )
    by_column = F.pad((sampled[0, 0] >= 0.5).T.int(), (1, 1))
    column, row = by_column.diff(dim=1).nonzero().unbind(1)
    edges: Tensor = column * height + row
    return edges.int()
