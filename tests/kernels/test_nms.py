"""Suppression with fixed shapes against torchvision; on the CPU through the interpreter."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from kernels.nms.reference import batched_nms_ref
from kernels.nms.triton_fwd import BLOCK, batched_nms_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# groups and boxes per group
SMALL = [(1, 1), (2, 5), (1, BLOCK), (2, BLOCK + 1), (1, 3 * BLOCK + 7)]
LARGE = [(20, 1000), (4, 4096)]
SHAPES = SMALL + (LARGE if DEVICE == "cuda" else [])


def make_boxes(groups: int, count: int, *, side: float) -> Tensor:
    """Boxes of about 10 x 10 pixels inside side x side: the smaller, the more they overlap."""
    rng = torch.Generator().manual_seed(groups * 1000 + count)
    corner = torch.rand(groups, count, 2, generator=rng) * side
    extent = 6 + torch.rand(groups, count, 2, generator=rng) * 8
    return torch.cat((corner, corner + extent), dim=-1)


def run(*inputs: Tensor | None) -> Tensor:
    keep = batched_nms_triton(*(None if x is None else x.to(DEVICE) for x in inputs)).cpu()
    assert keep.dtype == torch.bool
    return keep


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch and output start as garbage: a word that is read but not written shows."""
    empty = torch.empty

    def poisoned(*args: object, **kwargs: object) -> Tensor:
        return empty(*args, **kwargs).fill_(171)

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("side", [8.0, 60.0], ids=["crowded", "sparse"])
def test_agrees_with_torchvision(shape: tuple[int, int], side: float) -> None:
    groups, count = shape
    boxes = make_boxes(groups, count, side=side)
    thresholds = torch.linspace(0.3, 0.7, groups)
    keep = run(boxes, torch.ones(shape, dtype=torch.bool), thresholds)
    falling = torch.arange(count, 0, -1).float()
    for group in range(groups):
        expected = nms(boxes[group], falling, thresholds[group].item())
        assert keep[group].nonzero().squeeze(1).tolist() == expected.tolist()


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_reference_agrees_with_torchvision(shape: tuple[int, int]) -> None:
    boxes = make_boxes(*shape, side=20.0)
    keep = batched_nms_ref(boxes, torch.ones(shape, dtype=torch.bool), torch.full(shape[:1], 0.4))
    falling = torch.arange(shape[1], 0, -1).float()
    for group, own in enumerate(boxes):
        assert keep[group].nonzero().squeeze(1).tolist() == nms(own, falling, 0.4).tolist()


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_invalid_boxes_take_no_part(shape: tuple[int, int]) -> None:
    boxes = make_boxes(*shape, side=12.0)
    valid = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.6
    boxes[~valid] = torch.tensor([-1e9, -1e9, 1e9, 1e9])
    threshold = torch.full(shape[:1], 0.5)
    assert torch.equal(run(boxes, valid, threshold), batched_nms_ref(boxes, valid, threshold))


def test_only_boxes_of_one_class_compete() -> None:
    boxes = make_boxes(2, 2 * BLOCK + 3, side=15.0)
    classes = torch.randint(0, 3, boxes.shape[:2], generator=torch.Generator().manual_seed(4))
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    threshold = torch.tensor([0.3, 0.5])
    keep = run(boxes, valid, threshold, classes.int())
    falling = torch.arange(boxes.shape[1], 0, -1).float()
    for group in range(2):
        expected = batched_nms(boxes[group], falling, classes[group], threshold[group].item())
        assert keep[group].nonzero().squeeze(1).tolist() == expected.tolist()
    together = run(boxes, valid, threshold)
    assert together.sum() < keep.sum()
    assert torch.equal(batched_nms_ref(boxes, valid, threshold, classes.int()), keep)


def test_a_chain_is_resolved_to_its_end() -> None:
    """Each box overlaps only its neighbours: every second one stays, over block borders too."""
    x = torch.arange(2 * BLOCK + 5).float() * 5
    boxes = torch.stack((x, torch.zeros_like(x), x + 10, torch.full_like(x, 10.0)), dim=1)[None]
    keep = run(boxes, torch.ones(1, len(x), dtype=torch.bool), torch.tensor([0.3]))
    assert keep[0].tolist() == [i % 2 == 0 for i in range(len(x))]


def test_equal_overlap_is_not_too_much() -> None:
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 2]]])
    everything = torch.ones(1, 3, dtype=torch.bool)
    assert run(boxes, everything, torch.tensor([0.5])).tolist() == [[True, True, False]]
    assert run(boxes, everything, torch.tensor([0.49])).tolist() == [[True, False, False]]


def test_boxes_without_area_and_groups_without_boxes() -> None:
    boxes = torch.tensor([[[1.0, 1, 1, 1]] * 3, [[0.0, 0, 5, 5]] * 3])
    valid = torch.tensor([[True] * 3, [False] * 3])
    keep = run(boxes, valid, torch.tensor([0.0, 0.5]))
    assert keep.tolist() == [[True] * 3, [False] * 3]
