"""The measures, against answers whose quality is known."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco

from demo.compose import Composer, Scene
from demo.evaluation.classification import accuracy
from demo.evaluation.detection import average_precision
from demo.evaluation.prediction import predict_all
from demo.evaluation.real import real_test_photographs
from demo.evaluation.segmentation import overlap
from model.results import (
    Classification,
    ClassifyParams,
    Detections,
    Rle,
    Segmentation,
)

NAMES = ("disc", "square", "triangle")


def answer(*probabilities: float) -> Classification:
    return Classification(np.array(probabilities, np.float32))


def test_accuracy_counts_ranks_and_averages_classes() -> None:
    sure = answer(0.9, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01)
    found = accuracy([(sure, 0), (sure, 0), (sure, 0), (sure, 1), (sure, 6)])
    assert found.top1 == pytest.approx(3 / 5)
    assert found.top5 == pytest.approx(4 / 5)
    assert found.class_mean == pytest.approx((1 + 0 + 0) / 3)


def test_ties_are_not_right() -> None:
    assert accuracy([(answer(0.5, 0.5), 0)]).top1 == 0


def rle(mask: NDArray[np.bool_]) -> Rle:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Rle(*mask.shape, encoded["counts"].decode())


def perfect(scene: Scene) -> Detections:
    return Detections(
        boxes=scene["boxes"],
        scores=np.full(len(scene["labels"]), 0.9, np.float32),
        class_ids=scene["labels"],
        masks=tuple(rle(mask) for mask in scene["masks"]),
    )


@pytest.fixture(scope="module")
def scenes(pack: Path) -> list[Scene]:
    composer = Composer(pack, 128, seed=1)
    return [composer.scene() for _ in range(12)]


def test_perfect_detections_have_full_precision(scenes: list[Scene]) -> None:
    found = average_precision([(perfect(scene), scene) for scene in scenes], NAMES)
    assert found.box == pytest.approx(1)
    assert found.mask50 == pytest.approx(1)
    assert found.mask == pytest.approx(1)


def test_wrong_classes_have_none(scenes: list[Scene]) -> None:
    answers = []
    for scene in scenes:
        right = perfect(scene)
        wrong = Detections(right.boxes, right.scores, (right.class_ids + 1) % 3, right.masks)
        answers.append((wrong, scene))
    # an object of the wrong class may by chance lie on one of that class
    assert average_precision(answers, NAMES).box50 < 0.1


def test_boxes_and_masks_are_measured_apart(scenes: list[Scene]) -> None:
    answers = []
    for scene in scenes:
        right = perfect(scene)
        empty = tuple(rle(np.zeros_like(mask)) for mask in scene["masks"])
        answers.append((Detections(right.boxes, right.scores, right.class_ids, empty), scene))
    found = average_precision(answers, NAMES)
    assert found.box == pytest.approx(1)
    assert found.mask50 == 0


def test_nothing_found_is_zero_and_missing_masks_are_an_error(scenes: list[Scene]) -> None:
    none = np.zeros
    empty = Detections(none((0, 4), np.float32), none(0, np.float32), none(0, np.int64), ())
    assert average_precision([(empty, scenes[0])], NAMES).box == 0
    bare = Detections(empty.boxes, empty.scores, empty.class_ids, None)
    with pytest.raises(ValueError, match="no masks"):
        average_precision([(bare, scenes[0])], NAMES)


def test_overlap_of_known_maps() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.uint8)
    guess = np.array([[0, 0, 0, 1], [0, 0, 0, 1]], np.uint8)
    found = overlap([(Segmentation(guess), truth)], 3)
    assert found.mean_iou == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert found.object_iou == pytest.approx(2 / 4)
    assert found.pixel_accuracy == pytest.approx(6 / 8)


def test_overlap_refuses_other_sizes() -> None:
    wide, high = np.zeros((2, 4), np.uint8), np.zeros((4, 2), np.uint8)
    with pytest.raises(ValueError, match=r"\(2, 4\), expected \(4, 2\)"):
        overlap([(Segmentation(wide), high)], 2)


@pytest.mark.parametrize("measure", ["accuracy", "average_precision", "overlap"])
def test_no_answers_is_an_error(measure: str) -> None:
    calls = {
        "accuracy": lambda: accuracy([]),
        "average_precision": lambda: average_precision([], NAMES),
        "overlap": lambda: overlap([], 3),
    }
    with pytest.raises(ValueError, match="no answers"):
        calls[measure]()


class EchoPredictor:
    """Answers with the first pixel of the picture it was given; refuses mixed shapes."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def prepare(self, rgb: NDArray[np.uint8]) -> "Echo":
        return Echo(rgb)

    def infer(self, batch: list["Echo"], params: list[object]) -> list[int]:
        assert len({item.shape for item in batch}) == 1
        assert len(params) == len(batch)
        self.batches.append(len(batch))
        return [int(item.rgb[0, 0, 0]) for item in batch]

    def finish(self, raw: int, prepared: "Echo") -> Classification:
        return answer(raw, prepared.rgb[0, 0, 1])


class Echo:
    def __init__(self, rgb: NDArray[np.uint8]) -> None:
        self.rgb = rgb
        self.shape = rgb.shape[:2]


def test_answers_come_in_the_order_of_the_pictures() -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(150):
        side = int(rng.integers(2, 5))
        pictures.append((np.full((side, 3, 3), i, np.uint8), f"truth {i}"))
    predictor = EchoPredictor()
    found = list(
        predict_all(
            predictor,  # type: ignore[arg-type]
            pictures,
            ClassifyParams(),
            batch=8,
            total=len(pictures),
            title="echo",
        )
    )
    assert [truth for _, truth in found] == [f"truth {i}" for i in range(150)]
    assert [int(result.probabilities[0]) for result, _ in found] == list(range(150))  # type: ignore[union-attr]
    assert max(predictor.batches) == 8


def test_real_photographs_keep_their_classes(pack: Path) -> None:
    ((picture, class_id),) = real_test_photographs(pack)
    assert picture.shape == (64, 72, 3)
    assert class_id == 1
