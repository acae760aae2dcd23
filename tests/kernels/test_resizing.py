"""Tap tables and kernels against Pillow and OpenCV; on the CPU through the interpreter."""

import warnings

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kernels.resizing.packing import PackedBatch, Resampling
from kernels.resizing.reference import resample_bicubic_ref, resample_bilinear_ref, to_rgbx
from kernels.resizing.taps import bicubic_taps, bilinear_taps
from kernels.resizing.triton_fwd import BLOCK_H, BLOCK_W, resample_bicubic, resample_bilinear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# height and width of source and target
SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (5, 7)),
    ((1, 9), (8, 32)),
    ((9, 1), (32, 8)),
    ((2, 2), (1, 1)),
    ((3, 3), (1, 1)),
    ((64, 64), (64, 64)),
    ((64, 80), (32, 40)),
    ((64, 64), (32, 64)),
    ((64, 66), (32, 33)),
    ((10, 17), (33, 50)),
    ((97, 31), (64, 29)),
    ((101, 151), (64, 97)),
    ((700, 300), (31, 17)),
    ((20, 3000), (14, 2048)),
    ((375, 500), (256, 341)),
    ((480, 640), (800, 1067)),
]


def random_picture(height: int, width: int, *, extreme: bool) -> NDArray[np.uint8]:
    """Noise; with `extreme` only 0 and 255, where bicubic overshoots and clips."""
    picture = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    return np.where(picture > 127, 255, 0).astype(np.uint8) if extreme else picture


def bicubic_item(
    picture: NDArray[np.uint8], target: tuple[int, int], *, vertical_first: bool = False
) -> Resampling:
    rows, columns = (bicubic_taps(a, b) for a, b in zip(picture.shape[:2], target, strict=True))
    return Resampling(picture, rows, columns, vertical_first)


def bilinear_item(picture: NDArray[np.uint8], target: tuple[int, int]) -> Resampling:
    rows = bilinear_taps(picture.shape[0], target[0], vertical=True)
    return Resampling(picture, rows, bilinear_taps(picture.shape[1], target[1], vertical=False))


def one_axis_at_a_time(
    picture: NDArray[np.uint8], target: tuple[int, int], *, vertical_first: bool
) -> NDArray[np.uint8]:
    """By Pillow in the given order, which `Image.resize` chooses by its version and the sizes."""
    image = Image.fromarray(picture)
    middle = (image.width, target[0]) if vertical_first else (target[1], image.height)
    image = image.resize(middle, Image.Resampling.BICUBIC)
    return np.asarray(image.resize((target[1], target[0]), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("vertical_first", [False, True], ids=["across", "down"])
@pytest.mark.parametrize("extreme", [False, True], ids=["noise", "black_white"])
def test_reference_is_pillow(
    source: tuple[int, int], target: tuple[int, int], vertical_first: bool, extreme: bool
) -> None:
    picture = random_picture(*source, extreme=extreme)
    got = resample_bicubic_ref(bicubic_item(picture, target, vertical_first=vertical_first))
    assert np.array_equal(got, one_axis_at_a_time(picture, target, vertical_first=vertical_first))


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("extreme", [False, True], ids=["noise", "black_white"])
def test_reference_is_opencv(
    source: tuple[int, int], target: tuple[int, int], extreme: bool
) -> None:
    picture = random_picture(*source, extreme=extreme)
    expected = cv2.resize(picture, target[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resample_bilinear_ref(bilinear_item(picture, target)), expected)


@pytest.mark.parametrize("box", [(3.25, 17.5), (0.0, 40.0), (39.0, 40.0), (0.3, 0.9)])
def test_part_of_the_source(box: tuple[float, float]) -> None:
    picture = random_picture(1, 40, extreme=False)
    columns = bicubic_taps(40, 13, box=box)
    got = resample_bicubic_ref(Resampling(picture, bicubic_taps(1, 1), columns))
    expected = Image.fromarray(picture).resize(
        (13, 1), Image.Resampling.BICUBIC, box=(box[0], 0, box[1], 1)
    )
    assert np.array_equal(got, np.asarray(expected))


def test_a_crop_reads_only_what_it_needs() -> None:
    picture = random_picture(90, 1, extreme=False)
    whole = resample_bicubic_ref(bicubic_item(picture, (30, 1)))
    rows = bicubic_taps(90, 30, crop=(10, 15))
    got = resample_bicubic_ref(Resampling(picture, rows, bicubic_taps(1, 1)))
    assert np.array_equal(got, whole[10:15])
    # three source pixels to a target pixel: centres at 31.5 to 43.5, six more to either side
    assert (rows.start, rows.stop) == (26, 50)


def run_bicubic(items: list[Resampling], padded: int) -> NDArray[np.uint8]:
    out = torch.full((len(items), padded, padded, 4), 7, dtype=torch.uint8, device=DEVICE)
    packed = PackedBatch(items, padded_width=padded, bicubic=True)
    buffer = np.full(packed.nbytes, 99, dtype=np.uint8)
    packed.write(buffer)
    batch = packed.view(torch.from_numpy(buffer).to(DEVICE))
    resample_bicubic(
        batch,
        out,
        size=items[0].rows.size,
        max_lines=packed.max_lines,
        middle_pixels=packed.middle_pixels,
    )
    return out.cpu().numpy()


def run_bilinear(items: list[Resampling], padded_hw: tuple[int, int]) -> NDArray[np.uint8]:
    out = torch.full((len(items), *padded_hw, 4), 7, dtype=torch.uint8, device=DEVICE)
    packed = PackedBatch(items, padded_width=padded_hw[1], bicubic=False)
    buffer = np.full(packed.nbytes, 99, dtype=np.uint8)
    packed.write(buffer)
    resample_bilinear(packed.view(torch.from_numpy(buffer).to(DEVICE)), out)
    return out.cpu().numpy()


@pytest.mark.parametrize(
    ("size", "padded"), [(28, 32), (1, 1), (BLOCK_H, BLOCK_H + 1), (BLOCK_W + 3, BLOCK_W + 5)]
)
def test_bicubic_kernels(size: int, padded: int) -> None:
    # all of a long side goes into a single pixel, which the interpreter is slow at
    long = 90 if size > 1 else 20
    sources = [(41, 37), (1, 1), (5, long), (long, 5), (size, size), (2 * size, 2 * size)]
    sources += [(150, 160)] if size > 1 else []
    items = [
        bicubic_item(
            random_picture(*hw, extreme=index % 2 == 0),
            (size, size),
            vertical_first=index % 3 == 0,
        )
        for index, hw in enumerate(sources)
    ]
    for got, item in zip(run_bicubic(items, padded), items, strict=True):
        assert np.array_equal(got, to_rgbx(resample_bicubic_ref(item), (padded, padded)))


@pytest.mark.parametrize("padded_hw", [(32, 64), (1, 1), (BLOCK_H + 1, BLOCK_W + 1)])
def test_bilinear_kernel(padded_hw: tuple[int, int]) -> None:
    height, width = padded_hw
    items = [
        bilinear_item(random_picture(*source, extreme=False), target)
        for source, target in [
            ((41, 37), (height, width)),
            ((1, 1), (height, max(1, width - 9))),
            ((2 * height, 2 * width), (height, width)),
            ((1, 300), (1, width)),
            ((height, width), (height, width)),
        ]
    ]
    for got, item in zip(run_bilinear(items, padded_hw), items, strict=True):
        assert np.array_equal(got, to_rgbx(resample_bilinear_ref(item), padded_hw))


def test_pictures_with_strides() -> None:
    wide = random_picture(30, 44, extreme=False)
    views = [wide[::-1], wide[::2, ::3], wide.transpose(1, 0, 2), wide[3:20, 5:9, ::-1]]
    got = run_bilinear([bilinear_item(view, (16, 20)) for view in views], (16, 20))
    for pixels, view in zip(got, views, strict=True):
        expected = resample_bilinear_ref(bilinear_item(np.ascontiguousarray(view), (16, 20)))
        assert np.array_equal(pixels[..., :3], expected)


def test_pictures_of_one_size_share_their_tables() -> None:
    pictures = [random_picture(400, 500, extreme=False)] * 3
    sizes = [
        PackedBatch(
            [bicubic_item(p, (28, 28)) for p in pictures[:count]], padded_width=28, bicubic=True
        ).nbytes
        for count in (1, 2, 3)
    ]
    assert sizes[2] - sizes[1] == pytest.approx(pictures[0].nbytes, abs=200)


@pytest.mark.parametrize("kind", ["read-only", "upside down", "turned"])
def test_pictures_that_torch_cannot_share_are_copied(kind: str) -> None:
    picture = random_picture(20, 30, extreme=False)
    if kind == "read-only":
        odd = picture.copy()
        odd.flags.writeable = False
    else:
        odd = picture[::-1] if kind == "upside down" else picture.transpose(1, 0, 2)
    plain = np.ascontiguousarray(odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got, expected = (run_bicubic([bicubic_item(own, (8, 8))], 8) for own in (odd, plain))
    assert np.array_equal(got, expected)
