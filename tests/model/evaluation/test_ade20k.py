"""ADE20K's layout, and mIoU against counting pixel by pixel."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.evaluation.ade20k import open_ade20k, read_annotation
from model.evaluation.errors import ClassMismatchError, LayoutError, TruthError
from model.evaluation.segmentation import SegmentationMeasure, class_scores, confusion_matrix
from model.results import Segmentation
from tests.model.evaluation.layouts import noise, write_ade20k

K = 5


def by_pixel(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> dict[str, float]:
    """The metrics from numbers of the annotation files, one pixel after the other."""
    both, there, answered = [0] * K, [0] * K, [0] * K
    for numbers, found in pairs:
        for number, guess in zip(numbers.ravel().tolist(), found.ravel().tolist(), strict=True):
            if number in (0, 255):
                continue
            there[number - 1] += 1
            answered[guess] += 1
            both[number - 1] += number - 1 == guess
    unions = [there[k] + answered[k] - both[k] for k in range(K)]
    ious = [both[k] / unions[k] for k in range(K) if unions[k]]
    shares = [both[k] / there[k] for k in range(K) if there[k]]
    return {
        "mIoU": sum(ious) / len(ious),
        "aAcc": sum(both) / sum(there),
        "mAcc": sum(shares) / len(shares),
    }


def pictures(seed: int) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Of two sizes; class 4 never occurs, and 0 and 255 are nothing."""
    rng = np.random.default_rng(seed)
    sizes = [(9, 12), (12, 9), (9, 12)]
    values = np.array([0, 1, 2, 3, 4, 255], np.uint8)
    return {
        f"p{i}": (noise(i, *hw), rng.choice(values, hw, p=[0.2, 0.3, 0.2, 0.1, 0.1, 0.1]))
        for i, hw in enumerate(sizes)
    }


@pytest.mark.parametrize(("seed", "answers"), [(0, 4), (1, 5), (2, 5)])
def test_metrics_are_those_of_counting_pixels(tmp_path: Path, seed: int, answers: int) -> None:
    """With four possible answers class 4 is neither there nor answered, and is left out."""
    own = pictures(seed)
    dataset = open_ade20k(write_ade20k(tmp_path, own))
    rng = np.random.default_rng(100 + seed)
    measure = SegmentationMeasure(K)
    pairs = []
    for sample in dataset.samples:
        labels = own[sample.truth.stem][1]
        right = np.clip(labels.astype(int) - 1, 0, answers - 1)
        found = np.where(
            rng.random(labels.shape) < 0.7, right, rng.integers(0, answers, right.shape)
        )
        answer = Segmentation(found.astype(np.uint8))
        record = measure.record(sample.truth, answer, labels.shape)  # type: ignore[arg-type]
        measure.add(sample.truth, json.loads(json.dumps(record)))
        pairs.append((labels, answer.label_map))
    assert measure.metrics() == pytest.approx(by_pixel(pairs))
    assert measure.headline() == f"mIoU {100 * by_pixel(pairs)['mIoU']:.2f}"
    assert 0.3 < measure.metrics()["mIoU"] < 0.9


def test_perfect_maps(tmp_path: Path) -> None:
    dataset = open_ade20k(write_ade20k(tmp_path, pictures(0)))
    measure = SegmentationMeasure(K)
    for sample in dataset.samples:
        labels = read_annotation(sample.truth, K)
        # what is set aside may be answered with anything
        answer = Segmentation(np.where(labels < 0, 3, labels).astype(np.uint8))
        measure.add(sample.truth, measure.record(sample.truth, answer, answer.label_map.shape))
    assert measure.metrics() == {"mIoU": 1.0, "aAcc": 1.0, "mAcc": 1.0}


def test_scores_of_a_known_matrix() -> None:
    scores = class_scores(np.array([[3, 1, 0], [0, 0, 0], [2, 0, 4]]))
    assert scores.iou[[0, 1, 2]] == pytest.approx([3 / 6, 0, 4 / 6])
    assert scores.accuracy[[0, 2]] == pytest.approx([3 / 4, 4 / 6])
    assert math.isnan(scores.accuracy[1])
    assert scores.pixel_accuracy == pytest.approx(7 / 10)


def test_nothing_to_measure() -> None:
    measure = SegmentationMeasure(K)
    assert measure.headline() == ""
    with pytest.raises(ValueError, match="no answers"):
        measure.metrics()
    with pytest.raises(ValueError, match=r"\(2, 3\), expected \(3, 2\)"):
        confusion_matrix(np.zeros((3, 2), int), np.zeros((2, 3), int), K)


def test_pictures_of_a_size_come_together_and_damaged_ones_do_not_stop_it(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path, pictures(0))
    (root / "images" / "validation" / "p0.jpg").write_bytes(b"junk")
    assert [s.name for s in open_ade20k(root).samples] == [
        f"images/validation/{name}.jpg" for name in ("p0", "p2", "p1")
    ]


def test_pictures_without_annotations_are_named(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path, pictures(0))
    (root / "annotations" / "validation" / "p1.png").unlink()
    with pytest.raises(LayoutError, match=r"1 of 3 pictures have no annotation .*: p1.jpg"):
        open_ade20k(root)


@pytest.mark.parametrize(
    ("folders", "problem"),
    [
        (["images/val"], "no folder images/validation/; expected the ADE20K .*, found images/"),
        (["images/validation"], "no folder annotations/validation/; expected the ADE20K"),
        (["images/validation", "annotations/validation"], "has no pictures, found nothing"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, folders: list[str], problem: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(LayoutError, match=problem):
        open_ade20k(tmp_path)


def test_annotations_with_a_palette_hold_numbers_too(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 255], [2, 3, 5]], np.uint8)
    image = Image.fromarray(numbers, "L").convert("P")
    image.putdata(numbers.ravel().tolist())
    image.putpalette([200, 10, 10] * 256)
    image.save(tmp_path / "a.png")
    assert read_annotation(tmp_path / "a.png", K).tolist() == [[-1, 0, -1], [1, 2, 4]]


def test_annotations_that_cannot_be_used(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), K + 1, np.uint8)).save(tmp_path / "high.png")
    with pytest.raises(ClassMismatchError, match=r"high.png has class number 6, the model has 5"):
        read_annotation(tmp_path / "high.png", K)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "colours.png")
    with pytest.raises(TruthError, match="mode RGB, expected one 8-bit number a pixel"):
        read_annotation(tmp_path / "colours.png", K)
    (tmp_path / "junk.png").write_bytes((tmp_path / "high.png").read_bytes()[:40])
    with pytest.raises(TruthError, match=r"junk.png is not a readable PNG"):
        read_annotation(tmp_path / "junk.png", K)
    measure = SegmentationMeasure(K)
    Image.fromarray(np.ones((2, 3), np.uint8)).save(tmp_path / "wide.png")
    with pytest.raises(TruthError, match=r"is 2x3, its annotation wide.png is 3x2"):
        measure.record(tmp_path / "wide.png", Segmentation(np.zeros((3, 2), np.uint8)), (3, 2))
