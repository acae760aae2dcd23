"""Class maps of logits: leaving out classes early must not change a pixel."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.resizing import iter_full_logits, logits_to_label_map


def smooth_logits(num_classes: int, height: int, width: int) -> torch.Tensor:
    """Regions of one class each, as a trained network makes them."""
    coarse = torch.randn(1, num_classes, 4, 5, generator=torch.Generator().manual_seed(1)) * 5
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0]


def noise(num_classes: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(num_classes, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("make", [smooth_logits, noise])
@pytest.mark.parametrize(
    ("logits_hw", "resized_hw", "original_hw"),
    [
        ((32, 48), (127, 191), (427, 640)),
        ((64, 96), (256, 384), (100, 150)),
        ((16, 16), (64, 64), (701, 699)),
        ((1, 40), (2, 160), (1, 300)),
        ((9, 1), (33, 1), (777, 3)),
    ],
)
def test_the_class_map_is_the_argmax_of_all_classes(
    make: object,
    logits_hw: tuple[int, int],
    resized_hw: tuple[int, int],
    original_hw: tuple[int, int],
) -> None:
    logits = make(13, *logits_hw)  # type: ignore[operator]
    full = torch.cat(list(iter_full_logits(logits, resized_hw, original_hw)), dim=1)
    labels = logits_to_label_map(logits, resized_hw, original_hw)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, full.numpy().argmax(axis=0))


def test_of_equal_classes_the_first_wins() -> None:
    logits = torch.zeros(5, 8, 8)
    logits[2:] = 1.0
    assert (logits_to_label_map(logits, (32, 32), (50, 60)) == 2).all()


def test_a_class_that_leads_in_one_corner_is_found() -> None:
    logits = torch.zeros(3, 16, 16)
    logits[1] = 1.0
    logits[2, 15, 15] = 9.0
    labels = logits_to_label_map(logits, (64, 64), (640, 640))
    assert labels[-1, -1] == 2
    assert labels[0, 0] == 1


def test_noise_keeps_all_classes() -> None:
    labels = logits_to_label_map(noise(200, 32, 32), (128, 128), (128, 128))
    assert len(np.unique(labels)) > 150
