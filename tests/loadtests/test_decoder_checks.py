"""The checks of the GPU's JPEG decoder, as far as they need no GPU."""

from functools import partial
from itertools import repeat

import numpy as np
import pytest
import simplejpeg

from loadtests.block_reuse import ReuseCount, ReuseTest, failed_controls, write_in_order
from loadtests.generator.payloads import jpeg_pictures
from loadtests.picture_errors import picture_error


@pytest.mark.parametrize(("width", "height"), [(64, 64), (500, 375)])
def test_chroma_upsampling_of_another_kind_is_within_the_tolerance(width: int, height: int) -> None:
    size = max(3_000, width * height // 4)
    for file in jpeg_pictures(width, height, number=8, target_bytes=size, seed=1):
        exact, fast = (
            simplejpeg.decode_jpeg(file, "RGB", fastdct=is_fast, fastupsample=is_fast)
            for is_fast in (False, True)
        )
        error = picture_error(fast, exact)
        assert error.mean > 0.5
        assert error.is_within_tolerance
        assert not error.has_wrong_pixels


def test_a_part_of_another_picture_is_wrong_pixels_whatever_the_mean() -> None:
    one = np.full((100, 100, 3), 100, np.uint8)
    other = one.copy()
    other[:3] = 160
    error = picture_error(other, one)
    assert error.is_within_tolerance
    assert error.has_wrong_pixels
    assert not picture_error(one + np.uint8(5), one).is_within_tolerance
    assert not picture_error(one + np.uint8(5), one).has_wrong_pixels


def test_a_picture_of_another_size_is_wrong() -> None:
    one = np.zeros((4, 6, 3), np.uint8)
    assert picture_error(one.transpose(1, 0, 2), one).has_wrong_pixels


def test_ordered_writes_spoil_no_read() -> None:
    test = ReuseTest("cpu", chain_side=8)
    write = partial(write_in_order, device="cpu")
    count = test.run(write, repeat((3, 16, 16)), 4, seconds=0)
    assert (count.rounds, count.reads, count.corrupt) == (1, 4, 0)


@pytest.mark.parametrize(
    ("in_order", "unordered", "complaints"),
    [
        (ReuseCount(1, 8, reused=8), ReuseCount(1, 8, reused=8, corrupt=8), 0),
        (ReuseCount(1, 8, reused=8, corrupt=1), ReuseCount(1, 8, reused=8, corrupt=8), 1),
        (ReuseCount(1, 8, reused=8), ReuseCount(1, 8, reused=8), 1),
        (ReuseCount(1, 8), ReuseCount(1, 8), 2),
    ],
)
def test_the_reuse_test_is_trusted_only_with_both_controls(
    in_order: ReuseCount, unordered: ReuseCount, complaints: int
) -> None:
    assert len(failed_controls(in_order, unordered)) == complaints
