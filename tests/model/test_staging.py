"""Pictures through the stager are those of the CPU pipelines, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.compiled.staging import PictureStager, network_hw
from model.config import PUBLISHED_INPUTS, InputConfig, TaskName
from model.predictor import TASKS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PHOTOS = Path(__file__).parents[1] / "data/golden/images"
SMALL_CROP = InputConfig(short=32, crop=28)
PADDED_CROP = InputConfig(short=32, pad_multiple=12)
SMALL_FIT = InputConfig(short=24, long=40, pad_multiple=16)
SQUARE_FIT = InputConfig(short=40, pad_multiple=1)
CROP_BATCHES = [
    [(50, 37), (37, 50), (32, 32), (64, 64), (41, 97)],
    [(1, 1), (1, 7), (7, 1), (5, 5), (3, 2), (28, 28)],
    [(20, 3000), (3000, 20), (9, 80), (80, 9), (33, 271), (271, 33)],
    [(290, 130), (130, 290)],
    [(90, 44), (90, 45), (90, 46), (100, 31), (31, 100)],
]
# all of a batch have the same padded shape
FIT_BATCHES = [
    [(50, 70), (51, 75), (48, 72), (24, 35), (7, 10)],
    [(48, 48), (24, 24), (1, 1), (97, 101), (13, 12)],
    [(80, 40), (40, 20), (60, 29), (400, 199)],
    [(3, 300), (1, 40), (1, 2000)],
]


def random_pictures(sizes: list[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    noise = [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in sizes]
    # every other one black and white: bicubic overshoots there
    return [np.where(p > 127, 255, 0).astype(np.uint8) if i % 2 else p for i, p in enumerate(noise)]


def photo(name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(PHOTOS / name).convert("RGB"))


def check(
    stager: PictureStager,
    pictures: list[NDArray[np.uint8]],
    task: TaskName,
    config: InputConfig,
) -> None:
    sizes = [network_hw(*picture.shape[:2], task, config) for picture in pictures]
    (padded_hw,) = {padded for _, padded in sizes}
    out = torch.full((len(pictures), *padded_hw, 4), 7, dtype=torch.uint8, device=DEVICE)
    stager.load(pictures, out)
    for picture, got, (resized_hw, _) in zip(pictures, out.cpu().numpy(), sizes, strict=True):
        height, width = resized_hw
        expected = TASKS[task].resize(picture, config)
        assert expected.shape == (height, width, 3)
        assert np.array_equal(got[:height, :width, :3], expected)
        assert (got[:height, :width, 3] == 255).all()
        assert not got[height:].any()
        assert not got[:, width:].any()


@pytest.mark.parametrize("sizes", CROP_BATCHES, ids=str)
@pytest.mark.parametrize("config", [SMALL_CROP, PADDED_CROP], ids=["crop", "padded"])
def test_classification(sizes: list[tuple[int, int]], config: InputConfig) -> None:
    stager = PictureStager(DEVICE, TaskName.CLASSIFY, config)
    check(stager, random_pictures(sizes), TaskName.CLASSIFY, config)


@pytest.mark.parametrize("sizes", FIT_BATCHES, ids=str)
def test_detection(sizes: list[tuple[int, int]]) -> None:
    stager = PictureStager(DEVICE, TaskName.DETECT, SMALL_FIT)
    check(stager, random_pictures(sizes), TaskName.DETECT, SMALL_FIT)


@pytest.mark.parametrize("size", [(40, 40), (80, 80), (20, 80), (1, 1), (33, 7)], ids=str)
def test_segmentation(size: tuple[int, int]) -> None:
    stager = PictureStager(DEVICE, TaskName.SEGMENT, SQUARE_FIT)
    check(stager, random_pictures([size, size]), TaskName.SEGMENT, SQUARE_FIT)


def test_a_photograph_at_full_size() -> None:
    config = PUBLISHED_INPUTS[TaskName.CLASSIFY]
    stager = PictureStager(DEVICE, TaskName.CLASSIFY, config)
    check(stager, [photo("coffee.jpg")], TaskName.CLASSIFY, config)


@pytest.mark.parametrize("task", [TaskName.DETECT, TaskName.SEGMENT])
def test_a_photograph_into_a_rectangle(task: TaskName) -> None:
    short = PUBLISHED_INPUTS[task].short // (1 if DEVICE == "cuda" else 4)
    config = InputConfig(short=short, long=2 * short, pad_multiple=32)
    check(PictureStager(DEVICE, task, config), [photo("china.jpg")], task, config)


def test_batches_in_turn() -> None:
    stager = PictureStager(DEVICE, TaskName.CLASSIFY, SMALL_CROP)
    for sizes in ([(40, 50)], [(90, 70)] * 2, [(9, 9)], [(260, 270)], [(31, 33)] * 3, [(1, 1)]):
        check(stager, random_pictures(sizes), TaskName.CLASSIFY, SMALL_CROP)


def test_pictures_may_change_after_loading() -> None:
    stager = PictureStager(DEVICE, TaskName.CLASSIFY, SMALL_CROP)
    outs = [torch.empty((1, 28, 28, 4), dtype=torch.uint8, device=DEVICE) for _ in range(5)]
    picture = np.empty((60, 40, 3), dtype=np.uint8)
    for value, out in enumerate(outs):
        picture[:] = value
        stager.load([picture], out)
    assert [out[..., :3].unique().tolist() for out in outs] == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize("task", list(TaskName))
@pytest.mark.parametrize("size", [(500, 375), (1, 1), (3, 4000), (4000, 3), (799, 1333)], ids=str)
def test_sizes_are_known_beforehand(task: TaskName, size: tuple[int, int]) -> None:
    config = PUBLISHED_INPUTS[task]
    resized = TASKS[task].resize(np.zeros((*size, 3), dtype=np.uint8), config)
    resized_hw, padded_hw = network_hw(*size, task, config)
    assert resized_hw == resized.shape[:2]
    assert all(
        padded % config.pad_multiple == 0 and 0 <= padded - side < config.pad_multiple
        for side, padded in zip(resized_hw, padded_hw, strict=True)
    )


def test_refuses() -> None:
    stager = PictureStager(DEVICE, TaskName.DETECT, SMALL_FIT)
    out = torch.empty((1, 32, 48, 4), dtype=torch.uint8, device=DEVICE)
    picture = np.zeros((24, 36, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="the pictures need"):
        stager.load([picture, picture], out)
    with pytest.raises(ValueError, match="the pictures need"):
        stager.load([], out[:0])
    with pytest.raises(ValueError, match="the pictures need"):
        stager.load([picture, picture[:, :20]], torch.cat([out, out]))
    with pytest.raises(ValueError, match="a picture is"):
        stager.load([picture[..., 0]], out)
    with pytest.raises(ValueError, match="contiguous uint8"):
        stager.load([picture], out.transpose(1, 2).contiguous().transpose(1, 2))
    with pytest.raises(ValueError, match="does not fit"):
        PictureStager(DEVICE, TaskName.CLASSIFY, InputConfig(short=32, crop=40))
