"""Run lengths of many masks at once, against COCO's own encoder of the same pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco

from model.masks import edges_to_rles

SIDES = st.integers(1, 70)


def edges_of(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """As `kernels.mask_runs.reference` defines them."""
    columns = np.pad(mask.T.astype(np.int8), ((0, 0), (1, 1)))
    column, row = np.nonzero(np.diff(columns, axis=1))
    return (column * mask.shape[0] + row).astype(np.int32)


def check(masks: list[NDArray[np.bool_]], hw: tuple[int, int]) -> None:
    edges = [edges_of(mask) for mask in masks]
    ends = np.cumsum([len(own) for own in edges], dtype=np.int32)
    flat = np.concatenate([np.zeros(0, np.int32), *edges])
    for mask, rle in zip(masks, edges_to_rles(flat, ends, hw), strict=True):
        truth = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert (rle.height, rle.width) == hw
        assert rle.counts == truth["counts"].decode()


@settings(deadline=None)
@given(SIDES, SIDES, st.lists(st.floats(0, 1), max_size=5), st.integers(0, 2**31))
def test_noise(height: int, width: int, shares: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    check([rng.random((height, width)) < share for share in shares], (height, width))


def test_long_runs_and_masks_that_are_empty_or_full() -> None:
    hw = (3000, 2000)
    masks = [np.zeros(hw, np.bool_) for _ in range(6)]
    masks[1][:] = True
    masks[2][0, 0] = masks[2][-1, -1] = True
    masks[3][100:2900, 3:1990] = True
    masks[4][-1:, :] = True
    check(masks, hw)


def test_no_masks() -> None:
    assert edges_to_rles(np.zeros(0, np.int32), np.zeros(0, np.int32), (3, 4)) == ()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_neighbouring_masks_do_not_melt(dtype: type) -> None:
    """The first one ends where the second one begins."""
    edges = np.array([0, 4, 4, 8], dtype)
    found = edges_to_rles(edges, np.array([2, 4], dtype), (4, 3))
    truth = [
        coco.frPyObjects({"size": [4, 3], "counts": counts}, 4, 3)["counts"].decode()
        for counts in ([0, 4, 8], [4, 4, 4])
    ]
    assert [rle.counts for rle in found] == truth
