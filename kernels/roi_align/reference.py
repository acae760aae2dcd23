"""RoIAlign over several pyramid levels as two small matrix products per box: the truth."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

# pixels per cell of the levels, fine to coarse
STRIDES: Final = (4, 8, 16, 32)


def roi_align_ref(
    levels: Sequence[Tensor], rois: Tensor, images: Tensor, chosen: Tensor, size: int
) -> Tensor:
    """Average bilinear samples in size x size bins of each box, taken from the box's own level.

    A bin of h x w cells is sampled at ceil(h) x ceil(w) evenly spaced points. Cell centres lie at
    whole numbers, box edges are shifted by half a cell. Points up to one cell outside the map take
    the value of its rim, points further away zero. A bin's samples form a grid, so their average is
    (weights of the rows) x map x (weights of the columns).

    Args:
        levels: four (B, H_l, W_l, C) maps, `STRIDES` pixels per cell.
        rois: (R, 4) float32, x1 y1 x2 y2, pixels of the padded image.
        images: (R,) int32, 0..B - 1, or -1: no box here, the row is zero.
        chosen: (R,) int32 or int64, index of the level, 0..3.
        size: bins per side.

    Returns:
        (R, size, size, C) in the dtype of the levels; sums run in float32, or float64 for float64.

    Source: arXiv:1703.06870, section 3; `torchvision.ops.roi_align` with aligned=True and
    sampling_ratio=0.
    """
    channels, dtype = levels[0].shape[3], levels[0].dtype
    compute = torch.promote_types(dtype, torch.float32)
    out = torch.zeros((len(rois), size, size, channels), dtype=dtype, device=rois.device)
    for i, (image, level) in enumerate(zip(images.tolist(), chosen.tolist(), strict=True)):
        if image < 0:
            continue
        x = levels[level][image].to(compute)
        x1, y1, x2, y2 = (rois[i].to(compute) / STRIDES[level] - 0.5).tolist()
        rows = _bin_weights(y1, y2, x.shape[0], size).to(x)
        columns = _bin_weights(x1, x2, x.shape[1], size).to(x)
        out[i] = torch.einsum("ph,hwc,qw->pqc", rows, x, columns).to(dtype)
    return out


def _bin_weights(low: float, high: float, limit: int, size: int) -> Tensor:
    """(size, limit) float64: what each cell of one axis gives to each bin of the interval."""
    bin_size = (high - low) / size
    samples = int(-(-bin_size // 1))
    weights = torch.zeros((size, limit), dtype=torch.float64)
    for i in range(size):
        for sample in range(samples):
            position = low + i * bin_size + (sample + 0.5) * bin_size / samples
            if not -1.0 <= position <= limit:
                continue
            position = min(max(position, 0.0), limit - 1.0)
            cell = min(int(position), limit - 1)
            weights[i, cell] += (1 - (position - cell)) / samples
            if cell + 1 < limit:
                weights[i, cell + 1] += (position - cell) / samples
    return weights
