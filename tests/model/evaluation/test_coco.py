"""COCO's layout, and its twelve figures against pycocotools run by itself and by the definition."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.evaluation.coco import CocoData, open_coco
from model.evaluation.detection import COCO_METRICS, DetectionMeasure
from model.evaluation.errors import ClassMismatchError, LayoutError, TruthError
from model.results import Detections, Rle
from model.vocabulary import COCO_CATEGORY_IDS, class_names
from tests.model.evaluation import brute_force
from tests.model.evaluation.layouts import box_annotation, noise, write_coco

NAMES = ("cat", "dog", "owl")
# neither contiguous nor in the order of the model's classes
CATEGORIES = {7: "owl", 1: "cat", 90: "dog"}
HW = (60, 80)


def rectangle(x: int, y: int, w: int, h: int) -> NDArray[np.bool_]:
    pixels = np.zeros(HW, np.bool_)
    pixels[y : y + h, x : x + w] = True
    return pixels


def detections(*objects: tuple[int, float, int, int, int, int]) -> Detections:
    """Class id, score and x, y, w, h of each, by falling score."""
    objects = tuple(sorted(objects, key=lambda o: -o[1]))
    masks = [rle.encode(np.asfortranarray(rectangle(*o[2:]).astype(np.uint8))) for o in objects]
    return Detections(
        boxes=np.array([(x, y, x + w, y + h) for _, _, x, y, w, h in objects], np.float32).reshape(
            -1, 4
        ),
        scores=np.array([o[1] for o in objects], np.float32),
        class_ids=np.array([o[0] for o in objects], np.int64),
        masks=tuple(Rle(*HW, mask["counts"].decode()) for mask in masks),
    )


def data(root: Path, num_images: int, *annotations: dict[str, Any]) -> CocoData:
    pictures = {f"{i:012d}.png": noise(i, *HW) for i in range(1, num_images + 1)}
    return open_coco(write_coco(root, pictures, annotations, CATEGORIES), NAMES)


def measured(own: CocoData, answers: dict[int, Detections]) -> dict[str, float]:
    measure = DetectionMeasure(own)
    for sample in own.dataset.samples:
        # as it comes back from disk
        record = measure.record(sample.truth, answers[sample.truth.image_id], HW)
        measure.add(sample.truth, json.loads(json.dumps(record)))
    return measure.metrics()


def by_pycocotools(root: Path, answers: dict[int, Detections], kind: str) -> list[float]:
    """As the published evaluation script does it, with files."""
    own: list[dict[str, Any]] = []
    numbers = {name: number for number, name in CATEGORIES.items()}
    for image_id, found in answers.items():
        assert found.masks is not None
        for box, score, class_id, mask in zip(
            found.boxes, found.scores, found.class_ids, found.masks, strict=True
        ):
            x1, y1, x2, y2 = (float(v) for v in box)
            entry = {"image_id": image_id, "category_id": numbers[NAMES[class_id]]}
            entry["score"] = float(score)  # type: ignore[assignment]
            extra: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            if kind == "segm":
                extra = {"segmentation": {"size": list(HW), "counts": mask.counts}}
            own.append({**entry, **extra})
    path = root / f"{kind}.json"
    path.write_text(json.dumps(own))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(root / "annotations" / "instances_val2017.json")
        evaluation = COCOeval(truth, truth.loadRes(str(path)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]


def test_perfect_answers_have_full_precision(tmp_path: Path) -> None:
    own = data(tmp_path, 2, box_annotation(1, 1, 5, 5, 20, 20), box_annotation(2, 7, 10, 4, 40, 50))
    found = measured(
        own, {1: detections((0, 0.9, 5, 5, 20, 20)), 2: detections((2, 0.8, 10, 4, 40, 50))}
    )
    for kind in ("box", "mask"):
        for name in ("AP", "AP50", "AP75", "AR1", "AR100", "AP small", "AP medium"):
            assert found[f"{kind} {name}"] == pytest.approx(1), name
        # nothing is large
        assert math.isnan(found[f"{kind} AP large"])


def test_a_shift_costs_the_thresholds_above_its_overlap(tmp_path: Path) -> None:
    """20 x 20, shifted by 4: 16 * 20 / (2 * 400 - 320) = 2/3, so 0.50 to 0.65 of ten are met."""
    own = data(tmp_path, 1, box_annotation(1, 1, 5, 5, 20, 20))
    found = measured(own, {1: detections((0, 0.9, 9, 5, 20, 20))})
    assert found["box AP"] == pytest.approx(0.4)
    assert found["mask AP"] == pytest.approx(0.4)
    assert found["box AP50"] == pytest.approx(1)
    assert found["box AP75"] == 0


def test_a_duplicate_before_the_last_object_halves_nothing_but_precision(tmp_path: Path) -> None:
    own = data(tmp_path, 1, box_annotation(1, 1, 5, 5, 20, 20), box_annotation(1, 1, 50, 5, 20, 20))
    twice = ((0, 0.9, 5, 5, 20, 20), (0, 0.8, 5, 5, 20, 20), (0, 0.7, 50, 5, 20, 20))
    found = measured(own, {1: detections(*twice)})
    # 51 of the 101 recalls are met with precision 1, the others with 2/3
    assert found["box AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert found["box AR100"] == pytest.approx(1)


def test_what_lies_in_a_crowd_does_not_count(tmp_path: Path) -> None:
    crowd = {
        **box_annotation(1, 1, 40, 0, 40, 60, crowd=True),
        "segmentation": {"size": list(HW), "counts": [40 * 60, 40 * 60]},
    }
    own = data(tmp_path, 1, box_annotation(1, 1, 5, 5, 20, 20), crowd)
    inside = [(0, 0.95 - i / 100, 42 + 6 * i, 10, 5, 5) for i in range(5)]
    found = measured(own, {1: detections(*inside, (0, 0.5, 5, 5, 20, 20))})
    assert found["box AP"] == pytest.approx(1)
    outside = [(1, 0.95, 42, 10, 5, 5), (0, 0.95, 20, 30, 10, 10)]
    found = measured(own, {1: detections(*outside, (0, 0.5, 5, 5, 20, 20))})
    assert found["box AP"] == pytest.approx(0.5)


def test_pictures_without_objects_or_answers(tmp_path: Path) -> None:
    own = data(tmp_path, 3, box_annotation(1, 1, 5, 5, 20, 20))
    nothing = detections()
    found = measured(own, {1: nothing, 2: nothing, 3: nothing})
    assert found["box AP"] == found["mask AP"] == 0
    right, wrong = detections((0, 0.9, 5, 5, 20, 20)), detections((0, 0.95, 5, 5, 20, 20))
    assert measured(own, {1: right, 2: nothing, 3: nothing})["box AP"] == pytest.approx(1)
    # a false alarm where nothing is counts against it
    assert measured(own, {1: right, 2: wrong, 3: nothing})["box AP"] == pytest.approx(0.5)
    empty = data(tmp_path / "empty", 1)
    assert math.isnan(measured(empty, {1: right})["box AP"])


def scattered(seed: int) -> tuple[list[dict[str, Any]], dict[int, Detections]]:
    """Six pictures: objects found well, badly, twice or not at all, false alarms, crowds."""
    rng = np.random.default_rng(seed)
    annotations, answers = [], {}
    numbers = {name: number for number, name in CATEGORIES.items()}
    for image_id in range(1, 7):
        found = []
        for _ in range(int(rng.integers(0, 6))):
            w, h = (int(v) for v in rng.integers(6, 50, 2))
            x, y = int(rng.integers(0, HW[1] - w + 1)), int(rng.integers(0, HW[0] - h + 1))
            k = int(rng.integers(0, 3))
            crowd = bool(rng.random() < 0.15)
            annotation = box_annotation(image_id, numbers[NAMES[k]], x, y, w, h, crowd=crowd)
            packed = rle.encode(np.asfortranarray(rectangle(x, y, w, h).astype(np.uint8)))
            segmentation = {"size": list(HW), "counts": packed["counts"].decode()}
            annotations.append({**annotation, "segmentation": segmentation})
            for _ in range(int(rng.integers(0, 3))):
                dx, dy = (int(v) for v in rng.integers(-3, 4, 2))
                x1, y1 = max(0, min(x + dx, HW[1] - w)), max(0, min(y + dy, HW[0] - h))
                own = k if rng.random() < 0.85 else int(rng.integers(0, 3))
                found.append((own, float(rng.random()), x1, y1, w, h))
        answers[image_id] = detections(*found)
    return annotations, answers


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_pycocotools_and_with_the_definition(tmp_path: Path, seed: int) -> None:
    annotations, answers = scattered(seed)
    own = data(tmp_path, 6, *annotations)
    found = measured(own, answers)
    for kind, coco_kind in (("box", "bbox"), ("mask", "segm")):
        expected = by_pycocotools(tmp_path, answers, coco_kind)
        values = [found[f"{kind} {name}"] for name in COCO_METRICS]
        assert [-1 if math.isnan(v) else v for v in values] == expected
    truths = [
        brute_force.Thing(
            entry["image_id"],
            entry["category_id"],
            rle.decode({**entry["segmentation"], "size": list(HW)}).astype(np.bool_),
            crowd=bool(entry["iscrowd"]),
        )
        for entry in annotations
    ]
    guesses = [
        brute_force.Found(image_id, own.category_ids[k], rectangle(*_xywh(box)), float(score))
        for image_id, answer in answers.items()
        for box, score, k in zip(answer.boxes, answer.scores, answer.class_ids, strict=True)
    ]
    assert found["mask AP"] == pytest.approx(brute_force.mean_average_precision(truths, guesses))
    assert found["box AP50"] == pytest.approx(brute_force.average_precision(truths, guesses, 0.5))
    assert 0 < found["mask AP"] < 1


def _xywh(box: NDArray[np.float32]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (int(v) for v in box)
    return x1, y1, x2 - x1, y2 - y1


def test_only_pictures_that_were_answered_count(tmp_path: Path) -> None:
    own = data(tmp_path, 2, box_annotation(1, 1, 5, 5, 20, 20), box_annotation(2, 1, 5, 5, 20, 20))
    measure = DetectionMeasure(own)
    first = next(s.truth for s in own.dataset.samples if s.truth.image_id == 1)
    measure.add(first, measure.record(first, detections((0, 0.9, 5, 5, 20, 20)), HW))
    assert measure.metrics()["box AP"] == pytest.approx(1)


def test_the_running_figure_is_that_of_the_pictures_so_far(tmp_path: Path) -> None:
    boxes = [box_annotation(i, 1, 5, 5, 20, 20) for i in range(1, 61)]
    own = data(tmp_path, 60, *boxes)
    measure = DetectionMeasure(own)
    shown = []
    for i, sample in enumerate(own.dataset.samples):
        answer = detections((0, 0.9, 5, 5, 20, 20)) if i < 50 else detections()
        measure.add(sample.truth, measure.record(sample.truth, answer, HW))
        shown.append(measure.headline())
    assert shown[48] == ""
    assert shown[49] == shown[59] == "box AP 100.0 after 50"


def test_categories_are_mapped_by_name(tmp_path: Path) -> None:
    own = data(tmp_path, 1)
    assert own.category_ids == (1, 90, 7)


def test_the_official_numbers_are_found(tmp_path: Path) -> None:
    names = class_names("coco80")
    categories = dict(zip(COCO_CATEGORY_IDS, names, strict=True))
    root = write_coco(tmp_path, {"1.png": noise(0, 4, 4)}, [], categories)
    assert open_coco(root, names).category_ids == COCO_CATEGORY_IDS


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("cat", "dog", "fox"), "no classes of the model: owl; no categories: fox"),
        (("cat", "dog", "owl", "fox"), "3 categories in .*, 4 classes .*; no categories: fox"),
        (("cat", "dog"), "no classes of the model: owl"),
    ],
)
def test_other_classes_are_refused(tmp_path: Path, names: tuple[str, ...], problem: str) -> None:
    root = write_coco(tmp_path, {"1.png": noise(0, 4, 4)}, [], CATEGORIES)
    with pytest.raises(ClassMismatchError, match=problem):
        open_coco(root, names)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read .*: No such file .*; expected the COCO"),
        ("{", "is not JSON"),
        ("[]", "is a list, expected an object"),
        ('{"images": []}', "has no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}',
            "an image without id, file_name or size",
        ),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1}]}',
            "a category without a name and a number",
        ),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, content: str | None, problem: str) -> None:
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    if content is not None:
        (tmp_path / "annotations" / "instances_val2017.json").write_text(content)
    with pytest.raises(LayoutError, match=problem):
        open_coco(tmp_path, ("cat",))


def test_annotations_must_be_complete_and_of_listed_images(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="annotation 1 is of image 9, which is not listed"):
        data(tmp_path, 1, box_annotation(9, 1, 0, 0, 4, 4))
    bare = {k: v for k, v in box_annotation(1, 1, 0, 0, 4, 4).items() if k != "iscrowd"}
    with pytest.raises(LayoutError, match="annotation 1 has no iscrowd"):
        data(tmp_path, 1, bare)


def test_answers_must_be_for_the_size_of_the_annotation(tmp_path: Path) -> None:
    own = data(tmp_path, 1)
    measure = DetectionMeasure(own)
    with pytest.raises(TruthError, match="is 80x61, its annotation is for 80x60"):
        measure.record(own.dataset.samples[0].truth, detections(), (61, 80))
