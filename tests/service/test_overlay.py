from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.config import PUBLISHED_INPUTS, ModelSpec, TaskName
from model.results import Classification, Detections, Result, Rle, Segmentation
from service.answers import AnswerOptions
from service.overlay import DRAWN_SCORE, draw_overlay
from service.palette import NUM_COLOURS, class_colour, class_colours, ink_on, srgb_to_oklab

NAMES = ("person", "café table", "a class with quite a long name, longer than most", "dog")


def spec_of(task: TaskName) -> ModelSpec:
    return ModelSpec(
        name="some", task=task, variant="tiny", class_names=NAMES, input=PUBLISHED_INPUTS[task]
    )


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, dtype=np.uint8)


def encode(mask: NDArray[np.bool_]) -> Rle:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(mask.shape[0], mask.shape[1], encoded["counts"].decode("ascii"))


def detections(height: int, width: int, *, score: float = 0.9) -> Detections:
    """One object in the middle, its mask the left half of its box."""
    left, top, right, bottom = width // 4, height // 4, 3 * width // 4, 3 * height // 4
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left : width // 2] = True
    return Detections(
        boxes=np.array([[left, top, right, bottom]], dtype=np.float32),
        scores=np.array([score], dtype=np.float32),
        class_ids=np.array([3], dtype=np.int64),
        masks=(encode(mask),),
    )


def results(height: int, width: int) -> dict[TaskName, Result]:
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[:, width // 2 :] = 1
    labels[height // 2 :] = 2
    return {
        TaskName.CLASSIFY: Classification(np.array([0.1, 0.6, 0.2, 0.1], dtype=np.float32)),
        TaskName.DETECT: detections(height, width),
        TaskName.SEGMENT: Segmentation(labels),
    }


def drawn(
    rgb: NDArray[np.uint8], task: TaskName, result: Result, options: AnswerOptions | None = None
) -> NDArray[np.uint8]:
    data = draw_overlay(rgb, spec_of(task), result, options or AnswerOptions())
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


SIZES = [(1, 1), (1, 500), (500, 1), (2, 3), (13, 17), (60, 900), (900, 60), (224, 224), (480, 640)]


@pytest.mark.parametrize("task", list(TaskName))
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_size_works_and_is_kept(task: TaskName, size: tuple[int, int]) -> None:
    rgb = grey(*size)
    assert drawn(rgb, task, results(*size)[task]).shape == (*size, 3)
    assert (rgb == 90).all()


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TaskName))
def test_huge_pictures_work(task: TaskName) -> None:
    assert drawn(grey(5000, 8000), task, results(5000, 8000)[task]).shape == (5000, 8000, 3)


@pytest.mark.parametrize("task", list(TaskName))
def test_drawing_is_deterministic(task: TaskName) -> None:
    rgb, result = grey(300, 400), results(300, 400)[task]
    first = draw_overlay(rgb, spec_of(task), result, AnswerOptions())
    assert first == draw_overlay(rgb, spec_of(task), result, AnswerOptions())


@pytest.mark.parametrize("height", [300, 3000])
def test_the_caption_lies_along_the_lower_edge(height: int) -> None:
    rgb = grey(height, height)
    picture = drawn(rgb, TaskName.CLASSIFY, results(1, 1)[TaskName.CLASSIFY])
    changed = (picture != rgb).any(axis=2)
    top = int(np.flatnonzero(changed.any(axis=1))[0])
    assert changed[top:].all()
    assert 0.6 * height < top < 0.95 * height
    # letters: bright on the dark panel, in proportion to the picture
    assert (picture[top:] > 200).all(axis=2).sum() > height * height * 0.001


def test_the_picture_shows_through_outside_of_objects() -> None:
    rgb = grey(400, 400)
    picture = drawn(rgb, TaskName.DETECT, detections(400, 400))
    changed = (picture != rgb).any(axis=2)
    tag = changed[:100]
    assert not changed[:, :98].any()
    assert not changed[302:].any()
    # the right half of the box has no mask: only its frame and the tag are drawn
    assert not changed[140:290, 210:290].any()
    assert changed[150, 110:190].all()
    assert tag.any()


def test_frames_and_masks_have_the_colour_of_the_class() -> None:
    picture = drawn(grey(400, 400), TaskName.DETECT, detections(400, 400))
    colour = np.array(class_colour(3))
    assert (picture[200, 299] == colour).all()
    inside = picture[200, 150].astype(float)
    share = (inside - 90) / (colour - 90)
    assert np.allclose(share, share[0], atol=0.05)
    assert 0.2 < share[0] < 0.7


def test_without_masks_only_frames_are_drawn() -> None:
    picture = drawn(
        grey(400, 400), TaskName.DETECT, detections(400, 400), AnswerOptions(masks="none")
    )
    assert (picture[150:250, 110:190] == 90).all()
    assert (picture[200, 299] == class_colour(3)).all()


def test_faint_objects_are_drawn_only_when_asked_for() -> None:
    rgb, faint = grey(200, 200), detections(200, 200, score=DRAWN_SCORE - 0.05)
    assert (drawn(rgb, TaskName.DETECT, faint) == rgb).all()
    options = AnswerOptions(threshold=0.1)
    assert (drawn(rgb, TaskName.DETECT, faint, options) != rgb).any()
    other = replace(options, class_ids=frozenset({1}))
    assert (drawn(rgb, TaskName.DETECT, faint, other) == rgb).all()


@pytest.mark.parametrize(
    "box",
    [[0, 0, 400, 300], [0, 0, 4, 4], [396, 296, 400, 300], [-9, -9, 500, 500], [390, 2, 400, 9]],
)
@pytest.mark.parametrize("class_id", [0, 2])
def test_tags_stay_inside_and_whole(box: list[float], class_id: int) -> None:
    result = Detections(
        boxes=np.array([box], dtype=np.float32),
        scores=np.array([0.9], dtype=np.float32),
        class_ids=np.array([class_id], dtype=np.int64),
        masks=None,
    )
    picture = drawn(grey(300, 400), TaskName.DETECT, result)
    plain = (picture == class_colour(class_id)).all(axis=2)
    # letters are neither picture nor tag; their edges are smooth
    ink = ~plain & (picture != 90).all(axis=2)
    tag = plain | ink
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert len(rows) >= 6
    # the letters have the colour of the tag, not the edge of the picture, on every side
    assert tag[rows[0] - 1, columns[0] : columns[-1]].all()
    assert tag[rows[-1] + 1, columns[0] : columns[-1]].all()
    assert tag[rows[0] : rows[-1], columns[0] - 1].all()
    assert tag[rows[0] : rows[-1], columns[-1] + 1].all()


def test_tags_of_neighbours_do_not_cover_each_other() -> None:
    boxes = [[100, 100, 200, 200], [101, 101, 201, 201], [102, 102, 202, 202]]
    result = Detections(
        boxes=np.array(boxes, dtype=np.float32),
        scores=np.array([0.9, 0.8, 0.7], dtype=np.float32),
        class_ids=np.array([0, 1, 3], dtype=np.int64),
        masks=None,
    )
    picture = drawn(grey(400, 400), TaskName.DETECT, result)
    alone = []
    for index in range(3):
        single = Detections(
            result.boxes[index : index + 1],
            result.scores[index : index + 1],
            result.class_ids[index : index + 1],
            None,
        )
        colour = class_colour(int(result.class_ids[index]))
        lonely = drawn(grey(400, 400), TaskName.DETECT, single)
        alone.append(int((lonely == colour).all(axis=2).sum()))
        together = int((picture == colour).all(axis=2).sum())
        # frames cross each other; a covered tag would cost far more
        assert together > 0.75 * alone[index]


def test_a_class_map_is_tinted_with_a_legend() -> None:
    rgb = grey(300, 400)
    picture = drawn(rgb, TaskName.SEGMENT, results(300, 400)[TaskName.SEGMENT])
    assert (picture != rgb).any(axis=2).mean() > 0.99
    tints = [picture[100, 195], picture[100, 300], picture[250, 300]]
    for class_id, tint in enumerate(tints):
        expected = 0.42 * 90 + 0.58 * np.array(class_colour(class_id))
        assert np.abs(tint - expected).max() <= 1
    swatch = (picture[:100, :60] == class_colour(2)).all(axis=2)
    assert swatch.sum() > 20


def test_classes_that_are_filtered_out_stay_untouched() -> None:
    rgb = grey(300, 400)
    labels = np.zeros((300, 400), dtype=np.uint8)
    labels[:, 200:] = 1
    options = AnswerOptions(class_ids=frozenset({0}))
    picture = drawn(rgb, TaskName.SEGMENT, Segmentation(labels), options)
    assert (picture[:, 200:] == rgb[:, 200:]).all()
    assert (picture[:, :200] != rgb[:, :200]).any(axis=2).all()


def test_the_background_stays_clear() -> None:
    rgb = grey(300, 400)
    labels = np.zeros((300, 400), dtype=np.uint8)
    labels[150:] = 3
    spec = replace(spec_of(TaskName.SEGMENT), class_names=("background", *NAMES[1:]))
    data = draw_overlay(rgb, spec, Segmentation(labels), AnswerOptions())
    picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    # without the legend in the upper left corner
    assert (picture[:150, 200:] == 90).all()
    assert (picture[150:] != 90).any(axis=2).all()
    swatch = (picture[:150, :60, ::-1] == class_colour(0)).all(axis=2)
    assert not swatch.any()


def test_colours_are_far_apart_and_stable() -> None:
    lab = srgb_to_oklab(class_colours())
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert distance[:20, :20].min() > 0.1
    assert distance.min() > 0.02
    assert class_colour(0) == (38, 128, 235)
    assert class_colour(NUM_COLOURS + 5) == class_colour(5)
    contrast = [
        abs(lab[i, 0] - srgb_to_oklab(np.array([ink_on(class_colour(i))], np.uint8))[0, 0])
        for i in range(NUM_COLOURS)
    ]
    assert min(contrast) > 0.3
