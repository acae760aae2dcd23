"""Edges of the pasted masks, found on the device -> COCO run lengths, encoded on the CPU pool."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.mask_runs.triton_fwd import mask_edges_triton
from model.compiled.detect_types import DetectTensors
from model.masks import edges_to_rles
from model.results import Rle


@dataclass(frozen=True, slots=True)
class MaskRuns:
    """Edges of all masks of a batch, on the device.

    Attributes:
        edges: (capacity,) int32; the masks of the first image come first. Only the first
            `ends[-1, -1]` are defined. When that is more than the capacity the surplus is missing:
            ask again with more room.
        ends: (B, M) int32, where the edges of each mask end.
    """

    edges: Tensor
    ends: Tensor


def find_runs(
    found: DetectTensors, scale: Tensor, original_hw: Tensor, *, columns: int, capacity: int
) -> MaskRuns:
    """Paste the masks into the original images, keep only where they change.

    Launch sizes depend on `columns` and `capacity` alone; nothing waits for the device.

    Args:
        found: of a batch of B, with mask logits.
        scale: (B, 4) float32, resized / original size of x, y, x, y.
        original_hw: (B, 2) int32, height and width of the upright original images.
        columns: no original image is wider.
        capacity: edges that fit in.

    Raises:
        ValueError: without mask logits.
    """
    if found.mask_logits is None:
        raise ValueError("run lengths need mask logits, the detector was asked for none")
    batch, rows = found.scores.shape
    row = torch.arange(rows, device=found.counts.device)
    edges, ends = mask_edges_triton(
        found.mask_logits.flatten(0, 1),
        (found.boxes / scale[:, None]).flatten(0, 1),
        original_hw[:, None].expand(batch, rows, 2).reshape(-1, 2),
        (row < found.counts[:, None]).flatten(),
        columns=columns,
        capacity=capacity,
    )
    return MaskRuns(edges, ends.view(batch, rows))


def encode_image(
    edges: NDArray[np.int32],
    ends: NDArray[np.int32],
    image: int,
    count: int,
    image_hw: tuple[int, int],
) -> tuple[Rle, ...]:
    """The masks of one image of a batch.

    Args:
        edges: all edges of the batch, `MaskRuns.edges` on the host.
        ends: (B, M), `MaskRuns.ends` on the host.
        image: index in the batch.
        count: detections of this image.
        image_hw: height and width of the upright original image.

    Raises:
        ValueError: edges are missing.
    """
    flat = ends.reshape(-1)
    if len(edges) < flat[-1]:
        raise ValueError(f"{flat[-1]} edges were found, only {len(edges)} are here")
    first = image * ends.shape[1]
    start = int(flat[first - 1]) if first else 0
    stops = flat[first : first + count] - start
    last = start + (int(stops[-1]) if count else 0)
    return edges_to_rles(edges[start:last], stops, image_hw)
