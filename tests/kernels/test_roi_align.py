"""Pooling boxes from four levels against torchvision; on the CPU through the interpreter."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from kernels.roi_align.reference import STRIDES, roi_align_ref
from kernels.roi_align.triton_fwd import roi_align_triton
from tests.numerics import assert_no_worse_than

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# the interpreter rounds bfloat16 towards zero, the GPU to nearest
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE == "cuda" else [])
# height and width of the finest map, channels, boxes, bins
SMALL = [(24, 40, 5, 6, 7), (19, 21, 16, 5, 3), (8, 8, 1, 4, 2)]
LARGE = [(200, 336, 256, 4000, 7), (200, 336, 256, 400, 14)]
SHAPES = SMALL + (LARGE if DEVICE == "cuda" else [])


def make_levels(height: int, width: int, channels: int, batch: int = 2) -> list[Tensor]:
    rng = torch.Generator().manual_seed(height)
    sides = [(math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in range(4)]
    return [torch.randn(batch, h, w, channels, generator=rng) for h, w in sides]


def make_boxes(count: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes anywhere in the image, of any size, from any level: also far from the usual ones."""
    rng = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, 2, generator=rng) * torch.tensor([width, height]) * 4
    rois = torch.cat((corners.amin(dim=1), corners.amax(dim=1)), dim=1)
    images = torch.randint(0, 2, (count,), generator=rng).int()
    return rois, images, torch.arange(count) % 4


def expected(
    levels: list[Tensor], rois: Tensor, images: Tensor, chosen: Tensor, size: int
) -> Tensor:
    # thousands of boxes in float64 would keep a processor busy for minutes
    levels, rois = [x.to(DEVICE) for x in levels], rois.to(DEVICE)
    out = levels[0].new_zeros((len(rois), size, size, levels[0].shape[3]))
    for i, (image, level) in enumerate(zip(images.tolist(), chosen.tolist(), strict=True)):
        if image >= 0:
            pooled = roi_align(
                levels[level][image : image + 1].permute(0, 3, 1, 2),
                [rois[i : i + 1].to(levels[0].dtype)],
                output_size=size,
                spatial_scale=1 / STRIDES[level],
                sampling_ratio=0,
                aligned=True,
            )
            out[i] = pooled[0].permute(1, 2, 0)
    return out.cpu()


def run(levels: list[Tensor], rois: Tensor, images: Tensor, chosen: Tensor, size: int) -> Tensor:
    moved = [x.to(DEVICE) for x in (rois, images, chosen)]
    return roi_align_triton([x.to(DEVICE) for x in levels], *moved, size).cpu()


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output starts as NaN: a bin that is not written shows."""
    empty = torch.empty

    def poisoned(*args: object, **kwargs: object) -> Tensor:
        out = empty(*args, **kwargs)
        return out.fill_(math.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_reference_agrees_with_torchvision(shape: tuple[int, ...]) -> None:
    height, width, channels, count, size = shape
    levels = [x.double() for x in make_levels(height, width, channels)]
    boxes = make_boxes(count, height, width)
    got = roi_align_ref(levels, *boxes, size)
    torch.testing.assert_close(got, expected(levels, *boxes, size), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_float64_oracle(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    height, width, channels, count, size = shape
    levels = [x.to(dtype) for x in make_levels(height, width, channels)]
    boxes = make_boxes(count, height, width)
    oracle = expected([x.double() for x in levels], *boxes, size)
    got = run(levels, *boxes, size)
    assert got.dtype == dtype
    baseline = expected([x.float() for x in levels], *boxes, size).to(dtype)
    # the two orders of summation err differently; a wrong weight is a hundred times larger
    assert_no_worse_than(got, baseline, oracle, factor=3)


def test_boxes_over_the_rim_and_beyond() -> None:
    height, width = 16, 20
    levels = make_levels(height, width, 3)
    rois = torch.tensor(
        [
            [-30.0, -20, 30, 40],
            [60, 40, 120, 90],
            [0, 0, 80, 64],
            [79, 63, 80, 64],
            [-90, -90, -70, -80],
            [200, 200, 260, 230],
        ]
    )
    boxes = rois, torch.tensor([0, 1, 0, 1, 0, 1]).int(), torch.tensor([0, 0, 1, 0, 0, 3]).int()
    got = run(levels, *boxes, 4)
    torch.testing.assert_close(got, expected(levels, *boxes, 4), rtol=1e-4, atol=1e-5)
    assert not got[4:].any()


def test_absent_boxes_and_boxes_without_area_are_zero() -> None:
    levels = make_levels(16, 20, 3)
    rois = torch.tensor([[4.0, 4, 30, 30], [math.nan] * 4, [9, 9, 9, 9], [5, 5, 6, 5]])
    images = torch.tensor([1, -1, 0, 0]).int()
    got = run(levels, rois, images, torch.tensor([0, 99, 0, 0]), 3)
    assert got[0].any()
    assert not got[1:].any()


def test_a_box_smaller_than_a_cell() -> None:
    levels = make_levels(16, 20, 3)
    boxes = torch.tensor([[10.0, 11, 10.5, 11.25]]), torch.tensor([1]).int(), torch.tensor([3])
    got = run(levels, *boxes, 7)
    torch.testing.assert_close(got, expected(levels, *boxes, 7), rtol=1e-4, atol=1e-5)


def test_a_box_does_not_depend_on_the_others() -> None:
    levels = make_levels(24, 40, 4)
    rois, images, chosen = make_boxes(5, 24, 40)
    together = run(levels, rois, images, chosen, 3)
    for i in range(5):
        alone = run(levels, rois[i : i + 1], images[i : i + 1], chosen[i : i + 1], 3)
        assert torch.equal(together[i : i + 1], alone)
