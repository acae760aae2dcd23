"""Class maps made from tiles against the argmax of full-size logits in float64."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.label_map.reference import full_logits_ref, label_map_ref
from kernels.label_map.taps import composed_taps
from kernels.label_map.triton_fwd import BLOCK_H, BLOCK_W, label_map, label_maps
from model.compiled.label_maps import label_maps_on_host
from model.resizing import logits_to_label_map

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# logits, resized, original
SIZES = [
    ((8, 12), (32, 48), (32, 48)),  # one resizing
    ((8, 12), (31, 45), (31, 45)),
    ((9, 7), (35, 27), (50, 39)),
    ((16, 20), (64, 80), (25, 31)),  # back to a smaller photograph
    ((13, 17), (50, 67), (7, 5)),
    ((1, 1), (1, 1), (1, 1)),
    ((1, 1), (4, 3), (BLOCK_H, BLOCK_W)),
    ((1, 9), (2, 36), (1, BLOCK_W + 1)),
    ((5, 1), (20, 1), (BLOCK_H + 1, 3)),
]
LARGE = [((128, 171), (512, 683), (375, 500)), ((128, 171), (512, 683), (3000, 4000))]


def noise(h: int, w: int, num_classes: int) -> Tensor:
    return torch.randn(h, w, num_classes, generator=torch.Generator().manual_seed(h * w))


def smooth(h: int, w: int, num_classes: int) -> Tensor:
    """Regions of one class each, as a trained network makes them."""
    coarse = noise(3, 4, num_classes).permute(2, 0, 1)[None] * 5
    return F.interpolate(coarse, size=(h, w), mode="bicubic")[0].permute(1, 2, 0)


def assert_labels(
    got: Tensor, logits: Tensor, resized_hw: tuple[int, int], original_hw: tuple[int, int]
) -> None:
    """Equal wherever the best two classes are further apart than float32 can blur."""
    full = full_logits_ref(logits.double().cpu(), resized_hw, original_hw)
    assert got.shape == original_hw
    assert got.dtype == torch.uint8
    best = full.amax(dim=2, keepdim=True)
    blur = 1e-5 * logits.abs().max().item()
    chosen = full.gather(2, got.cpu().long().unsqueeze(2))
    assert (best - chosen).max().item() <= blur
    clear = (full > best - blur).sum(dim=2) == 1
    assert torch.equal(got.cpu()[clear].long(), full.argmax(dim=2)[clear])
    assert clear.double().mean() > 0.99


@pytest.mark.parametrize(("logits_hw", "resized_hw", "original_hw"), SIZES)
def test_sizes(
    logits_hw: tuple[int, int], resized_hw: tuple[int, int], original_hw: tuple[int, int]
) -> None:
    logits = noise(*logits_hw, 3).to(DEVICE)
    got = label_map(logits, resized_hw, original_hw)
    assert_labels(got, logits, resized_hw, original_hw)


@pytest.mark.parametrize("num_classes", [1, 2, 7, 33])
def test_numbers_of_classes(num_classes: int) -> None:
    logits = noise(5, 4, num_classes).to(DEVICE)
    got = label_map(logits, (17, 13), (20, 33))
    assert_labels(got, logits, (17, 13), (20, 33))


# one of the two halves is enough for the interpreter
BFLOAT16 = pytest.param(
    torch.bfloat16, marks=[pytest.mark.nightly] if DEVICE == "cpu" else [], id="torch.bfloat16"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, BFLOAT16], ids=str)
def test_many_classes(dtype: torch.dtype) -> None:
    hw = (BLOCK_H - 3, BLOCK_W)
    logits = noise(4, 9, 150).to(DEVICE, dtype)
    got = label_map(logits, (16, 36), hw)
    assert_labels(got, logits, (16, 36), hw)


def test_few_contenders() -> None:
    logits = smooth(24, 32, 12).to(DEVICE)
    got = label_map(logits, (96, 128), (70, 66))
    assert_labels(got, logits, (96, 128), (70, 66))


@pytest.mark.skipif(DEVICE == "cpu", reason="too large for the interpreter")
@pytest.mark.parametrize(("logits_hw", "resized_hw", "original_hw"), LARGE)
def test_full_size(
    logits_hw: tuple[int, int], resized_hw: tuple[int, int], original_hw: tuple[int, int]
) -> None:
    logits = smooth(*logits_hw, 8).half().to(DEVICE)
    got = label_map(logits, resized_hw, original_hw)
    assert_labels(got, logits, resized_hw, original_hw)


def test_all_classes_in_256() -> None:
    logits = torch.full((16, 16, 256), -1.0)
    pixel = torch.arange(256)
    logits[pixel // 16, pixel % 16, pixel] = 1.0
    got = label_map(logits.to(DEVICE), (16, 16), (16, 16)).cpu()
    assert torch.equal(got.ravel(), pixel.to(torch.uint8))


def test_of_equal_classes_the_first_wins() -> None:
    logits = noise(6, 5, 9)
    logits[..., 2:] = logits[..., 2:3].abs() + 4.0
    got = label_map(logits.to(DEVICE), (24, 20), (50, 41))
    assert (got == 2).all()


def test_differences_small_against_the_logits() -> None:
    logits = smooth(8, 8, 5) + 1000.0
    got = label_map(logits.to(DEVICE), (32, 32), (40, 40))
    assert_labels(got, logits, (32, 32), (40, 40))


@pytest.mark.parametrize("layout", ["channels_first", "sliced", "every_other"])
def test_strides(layout: str) -> None:
    dense = noise(7, 6, 11)
    logits = {
        "channels_first": dense.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "sliced": F.pad(dense, (3, 4, 1, 2, 2, 1))[2:-1, 1:-2, 3:-4],
        "every_other": dense.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)[::2, ::2],
    }[layout]
    assert logits.stride() != dense.stride()
    got = label_map(logits.to(DEVICE), (28, 24), (33, 20))
    assert torch.equal(got, label_map(dense.to(DEVICE), (28, 24), (33, 20)))
    assert_labels(got, dense, (28, 24), (33, 20))


def test_a_batch_is_its_images() -> None:
    logits = torch.stack([noise(8, 9, 6), smooth(8, 9, 6), noise(8, 9, 6).flip(0)]).to(DEVICE)
    sizes = [(20, 30), (1, 70), (50, 3)]
    out = torch.full((sum(h * w for h, w in sizes),), 77, dtype=torch.uint8, device=DEVICE)
    maps = label_maps(logits, (32, 36), sizes, out)
    for image, hw, got in zip(logits, sizes, maps, strict=True):
        assert torch.equal(got, label_map(image, (32, 36), hw))
        assert_labels(got, image, (32, 36), hw)
    assert torch.equal(torch.cat([labels.ravel() for labels in maps]), out)
    arrays = label_maps_on_host(logits, (32, 36), sizes)
    assert all(
        np.array_equal(array, labels.cpu().numpy())
        for array, labels in zip(arrays, maps, strict=True)
    )


def test_as_on_the_cpu() -> None:
    logits = smooth(16, 21, 6)
    expected = logits_to_label_map(logits.permute(2, 0, 1), (64, 84), (47, 62))
    got = label_map(logits.to(DEVICE), (64, 84), (47, 62)).cpu().numpy()
    assert (got == expected).mean() > 0.999


def test_the_reference_is_two_resizings() -> None:
    # by hand: [0, 4] -> [0, 1, 3, 4] -> its means in pairs
    logits = torch.tensor([[[0.0], [4.0]]], dtype=torch.float64)
    assert full_logits_ref(logits, (1, 4), (1, 2)).ravel().tolist() == [0.5, 3.5]
    assert label_map_ref(logits.repeat(1, 1, 2), (1, 4), (1, 2)).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("source", "middle", "target"),
    list(itertools.product([1, 2, 7], [7, 28], [1, 5, 28, 61])),
)
def test_composed_taps(source: int, middle: int, target: int) -> None:
    table = composed_taps(source, middle, target)
    weights = torch.from_numpy(table[1:].view(np.float32).astype(np.float64))
    assert len(weights) <= 3
    unit = torch.eye(source, dtype=torch.float64)[None]
    for size in (middle, target):
        unit = F.interpolate(unit, size=size, mode="linear", align_corners=False)
    dense = torch.zeros(source + len(weights), target, dtype=torch.float64)
    for tap, weight in enumerate(weights):
        dense[torch.from_numpy(table[0].astype(np.int64)) + tap, torch.arange(target)] += weight
    torch.testing.assert_close(dense[:source], unit[0], rtol=0, atol=1e-7)
    assert not dense[source:].any()


def test_refuses() -> None:
    logits = noise(4, 4, 3).to(DEVICE)
    with pytest.raises(ValueError, match="exceed resized size"):
        label_map(logits, (3, 16), (16, 16))
    with pytest.raises(ValueError, match="have 2 sizes"):
        label_maps(logits[None], (16, 16), [(16, 16), (16, 16)])
    with pytest.raises(ValueError, match="at most float32"):
        label_map(logits.double(), (16, 16), (16, 16))
    with pytest.raises(ValueError, match="K <= 256"):
        label_map(noise(2, 2, 257).to(DEVICE), (16, 16), (16, 16))
    with pytest.raises(ValueError, match="out must be"):
        label_map(logits, (16, 16), (16, 16), torch.empty(255, dtype=torch.uint8, device=DEVICE))
