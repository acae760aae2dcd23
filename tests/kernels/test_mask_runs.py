"""Edges of pasted masks against the host's own pasting; on the CPU through the interpreter."""

from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.mask_runs.reference import mask_edges_ref
from kernels.mask_runs.triton_fwd import BLOCK_X, BLOCK_Y, mask_edges_triton
from model.masks import edges_to_rle, paste_mask, patch_to_rle, rle_to_mask

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# height and width of the image
SMALL = [(1, 1), (1, 9), (9, 1), (40, 37), (BLOCK_Y + 1, 2 * BLOCK_X + 1), (2 * BLOCK_Y, BLOCK_X)]
LARGE = [(480, 640), (3000, 4000), (16_384, 200), (200, 16_384)]
SIZES = SMALL + (LARGE if DEVICE == "cuda" else [])
ALLOWED_PIXELS = 20 if DEVICE == "cuda" else 0


def make_masks(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Smooth blobs, noise and a full mask; boxes inside, over the rim, of the whole image."""
    rng = torch.Generator().manual_seed(height * 31 + width)
    noise = torch.randn(7, 28, 28, generator=rng)
    ramp = torch.linspace(-3, 3, 28)
    blob = 4 - (ramp[:, None] ** 2 + ramp[None, :] ** 2)
    logits = torch.stack((blob, blob + noise[1], noise[2], noise[3] * 5, noise[4], -blob, blob * 0))
    logits[6] = 9.0
    extent = torch.tensor([width, height, width, height])
    boxes = torch.rand(7, 4, generator=rng).sort(dim=1).values[:, [0, 1, 2, 3]] * extent
    boxes[3] = torch.tensor([0.0, 0, width, height])
    boxes[4] = torch.tensor([-2.5, -1.5, width + 1.25, height * 0.7])
    boxes[6] = torch.tensor([0.0, 0, width, height])
    return logits, boxes


def run(
    logits: Tensor, boxes: Tensor, sizes: Tensor, valid: Tensor, *, columns: int, capacity: int
) -> list[list[int]]:
    """Per mask its edges; asserts that nothing of the poisoned memory is in use."""
    moved = [x.to(DEVICE) for x in (logits, boxes, sizes, valid)]
    edges, ends = mask_edges_triton(*moved, columns=columns, capacity=capacity)
    assert edges.shape == (capacity,)
    assert ends.shape == (len(logits),)
    assert (edges[int(ends[-1]) :] == -7).all(), "written outside the edges"
    starts = [0, *ends.tolist()[:-1]]
    return [edges[a:b].tolist() for a, b in zip(starts, ends.tolist(), strict=True)]


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kw: empty(*args, **kw).fill_(-7))


def sizes_of(height: int, width: int, count: int) -> Tensor:
    return torch.tensor([[height, width]] * count, dtype=torch.int32)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_edges_are_those_of_the_pasted_masks(size: tuple[int, int]) -> None:
    logits, boxes = make_masks(*size)
    valid = torch.ones(7, dtype=torch.bool)
    room = 7 * (size[1] + 1) * min(size[0] + 1, 80)
    found = run(logits, boxes, sizes_of(*size, 7), valid, columns=size[1] + 3, capacity=room)
    assert any(found)
    for edges, mask, box in zip(found, logits, boxes, strict=True):
        expected = patch_to_rle(paste_mask(mask, box, size), size)
        got = edges_to_rle(np.array(edges, dtype=np.int32), size)
        # the GPU's sigmoid rounds differently: pixels at one half may fall to the other side
        different = (rle_to_mask(got) != rle_to_mask(expected)).sum()
        assert different <= ALLOWED_PIXELS
        assert (got == expected) or different


@pytest.mark.parametrize("size", SMALL, ids=str)
def test_reference_agrees_with_the_kernel(size: tuple[int, int]) -> None:
    logits, boxes = make_masks(*size)
    valid = torch.tensor([True, False, True, True, True, False, True])
    sizes = sizes_of(*size, 7)
    room = 7 * (size[1] + 1) * (size[0] + 1)
    edges, ends = mask_edges_ref(logits, boxes, sizes, valid, columns=size[1], capacity=room)
    found = run(logits, boxes, sizes, valid, columns=size[1], capacity=room)
    assert ends.tolist() == np.cumsum([len(own) for own in found]).tolist()
    assert edges[: ends[-1]].tolist() == list(chain.from_iterable(found))


def test_masks_of_different_images_keep_apart() -> None:
    images = [(20, 33), (45, 12), (8, 70)]
    parts = [make_masks(*size) for size in images]
    logits, boxes = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    sizes = torch.cat([sizes_of(*size, 7) for size in images])
    valid = torch.ones(21, dtype=torch.bool)
    together = run(logits, boxes, sizes, valid, columns=70, capacity=20_000)
    for i, size in enumerate(images):
        part = parts[i][0], parts[i][1], sizes_of(*size, 7), valid[:7]
        assert run(*part, columns=size[1], capacity=20_000) == together[7 * i : 7 * i + 7]


def test_absent_masks_and_boxes_without_area_have_no_edges() -> None:
    boxes = torch.tensor([[2.0, 2, 9, 9], [3, 3, 3, 9], [5, 5, 4, 4], [-40, -40, -30, -30]])
    boxes = torch.cat((boxes, torch.tensor([[1.0, 1, 8, 8], [50, 2, 60, 9]])))
    valid = torch.tensor([False, True, True, True, True, True])
    logits = torch.full((6, 28, 28), 9.0)
    found = run(logits, boxes, sizes_of(20, 20, 6), valid, columns=20, capacity=500)
    assert [bool(edges) for edges in found] == [False, False, False, False, True, False]


def test_a_surplus_is_counted_and_dropped() -> None:
    logits, boxes = make_masks(40, 37)
    inputs = logits, boxes, sizes_of(40, 37, 7), torch.ones(7, dtype=torch.bool)
    everything = list(chain.from_iterable(run(*inputs, columns=37, capacity=9000)))
    moved = [x.to(DEVICE) for x in inputs]
    edges, ends = mask_edges_triton(*moved, columns=37, capacity=100)
    assert int(ends[-1]) == len(everything) > 100
    assert edges.tolist() == everything[:100]
