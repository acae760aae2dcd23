import base64
import json
from typing import Any

import cv2
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.config import PUBLISHED_INPUTS, ModelSpec, TaskName
from model.results import Classification, Detections, Result, Rle, Segmentation
from model.vocabulary import published_class_names
from service.answers import (
    AnswerOptions,
    UnsupportedFormatError,
    build_answer,
    class_pixels,
    label_map_png,
    mask_polygons,
    parse_class_filter,
)

HEIGHT, WIDTH = 40, 60
BOX = [4.25, 8.5, 24.0, 30.0]


def spec_of(task: TaskName, *names: str, demo: bool = False) -> ModelSpec:
    return ModelSpec(
        name=f"some-{task}",
        task=task,
        variant="tiny",
        class_names=names or published_class_names(task),
        input=PUBLISHED_INPUTS[task],
        demo=demo,
    )


def encode(mask: NDArray[np.bool_]) -> Rle:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(mask.shape[0], mask.shape[1], encoded["counts"].decode("ascii"))


def decode(size: list[int], counts: str) -> NDArray[np.bool_]:
    return coco_mask.decode({"size": size, "counts": counts.encode("ascii")}).astype(bool)


def rectangle() -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[9:30, 5:24] = True
    return mask


def some_detections(*, with_masks: bool = True) -> Detections:
    return Detections(
        boxes=np.array([BOX, [0, 0, 60, 40], [10, 10, 11, 12]], dtype=np.float32),
        scores=np.array([0.9, 0.5, 0.1], dtype=np.float32),
        class_ids=np.array([16, 0, 16], dtype=np.int64),
        masks=(encode(rectangle()),) * 3 if with_masks else None,
    )


def some_map() -> Segmentation:
    labels = np.full((HEIGHT, WIDTH), 2, dtype=np.uint8)
    labels[:10] = 149
    labels[0, 0] = 0
    return Segmentation(labels)


def answer(spec: ModelSpec, result: Result, **options: Any) -> Any:
    """The answer after a trip through JSON, which only plain types survive."""
    built = build_answer(
        spec,
        result,
        AnswerOptions(**options),
        height=HEIGHT,
        width=WIDTH,
        timings_ms={"decode": 1.23456, "infer": 20},
    )
    text = orjson.dumps(built)
    assert json.loads(json.dumps(built)) == orjson.loads(text)
    return orjson.loads(text)


def png_pixels(text: str) -> NDArray[np.uint8]:
    data = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint8
    return pixels


class TestClassify:
    probabilities = np.array([0.1, 0.4, 0.4, 0.06, 0.04], dtype=np.float32)

    def test_native(self) -> None:
        spec = spec_of(TaskName.CLASSIFY, "a", "b", "c", "d", "e", demo=True)
        assert answer(spec, Classification(self.probabilities), top_k=3) == {
            "model": {"name": "some-classify", "demo": True},
            "image": {"width": WIDTH, "height": HEIGHT},
            "predictions": [
                {"label": "b", "class_id": 1, "score": 0.4},
                {"label": "c", "class_id": 2, "score": 0.4},
                {"label": "a", "class_id": 0, "score": 0.1},
            ],
            "timings": {"decode": 1.235, "infer": 20.0},
        }

    def test_hf_is_a_bare_list(self) -> None:
        spec = spec_of(TaskName.CLASSIFY, "a", "b", "c", "d", "e")
        assert answer(spec, Classification(self.probabilities), top_k=1, format="hf") == [
            {"label": "b", "score": 0.4}
        ]

    def test_filters(self) -> None:
        spec = spec_of(TaskName.CLASSIFY, "a", "b", "c", "d", "e")
        result = Classification(self.probabilities)
        kept = answer(spec, result, threshold=0.05, class_ids=frozenset({0, 3, 4}))
        assert [item["class_id"] for item in kept["predictions"]] == [0, 3]

    def test_coco_has_no_such_form(self) -> None:
        spec = spec_of(TaskName.CLASSIFY, "a", "b", "c", "d", "e")
        with pytest.raises(UnsupportedFormatError, match="no form for a classification"):
            answer(spec, Classification(self.probabilities), format="coco")


class TestDetect:
    spec = spec_of(TaskName.DETECT)

    def test_native(self) -> None:
        got = answer(self.spec, some_detections())
        first = got["predictions"][0]
        assert first == {
            "label": "dog",
            "class_id": 16,
            "score": 0.9,
            "box": {"xmin": 4.25, "ymin": 8.5, "xmax": 24.0, "ymax": 30.0},
            "mask": {"size": [HEIGHT, WIDTH], "counts": encode(rectangle()).counts},
        }
        assert got["model"] == {"name": "some-detect", "demo": False}
        assert len(got["predictions"]) == 3
        assert "label_map" not in got

    def test_masks_in_every_form(self) -> None:
        masks = {
            form: answer(self.spec, some_detections(), masks=form)["predictions"][0].get("mask")
            for form in ("rle", "polygon", "png", "none")
        }
        assert masks["none"] is None
        assert masks["rle"]["size"] == masks["polygon"]["size"] == masks["png"]["size"]
        assert np.array_equal(decode(**masks["rle"]), rectangle())
        assert np.array_equal(png_pixels(masks["png"]["png"]), rectangle() * np.uint8(255))
        outline = np.array(masks["polygon"]["polygons"][0]).reshape(-1, 2)
        assert np.abs(outline.min(axis=0) - (5, 9)).max() <= 0.5
        assert np.abs(outline.max(axis=0) - (24, 30)).max() <= 0.5

    def test_without_masks(self) -> None:
        for form in ("native", "coco"):
            got = answer(self.spec, some_detections(with_masks=False), format=form)
            items = got if form == "coco" else got["predictions"]
            assert not {"mask", "segmentation"} & items[0].keys()

    def test_filters(self) -> None:
        got = answer(self.spec, some_detections(), threshold=0.5)
        assert [item["score"] for item in got["predictions"]] == [0.9, 0.5]
        got = answer(self.spec, some_detections(), class_ids=frozenset({16}))
        assert [item["score"] for item in got["predictions"]] == [0.9, 0.1]

    def test_coco_results_are_read_by_the_coco_tools(self) -> None:
        results = answer(self.spec, some_detections(), format="coco", masks="polygon")
        assert [item["category_id"] for item in results] == [18, 1, 18]
        assert results[0]["bbox"] == [4.25, 8.5, 19.75, 21.5]
        assert results[0]["score"] == 0.9
        assert np.array_equal(decode(**results[0]["segmentation"]), rectangle())

    def test_coco_numbers_of_other_class_lists(self) -> None:
        spec = spec_of(TaskName.DETECT, *(f"c{number}" for number in range(20)))
        results = answer(spec, some_detections(), format="coco")
        assert [item["category_id"] for item in results] == [17, 1, 17]

    def test_hf_boxes_are_integers(self) -> None:
        first = answer(self.spec, some_detections(), format="hf")[0]
        assert first == {
            "label": "dog",
            "score": 0.9,
            "box": {"xmin": 4, "ymin": 8, "xmax": 24, "ymax": 30},
        }
        assert all(type(edge) is int for edge in first["box"].values())

    def test_nothing_found(self) -> None:
        nothing = Detections(
            boxes=np.zeros((0, 4), dtype=np.float32),
            scores=np.zeros(0, dtype=np.float32),
            class_ids=np.zeros(0, dtype=np.int64),
            masks=(),
        )
        assert answer(self.spec, nothing)["predictions"] == []
        assert answer(self.spec, nothing, format="hf") == []
        assert answer(self.spec, nothing, format="coco") == []


class TestSegment:
    spec = spec_of(TaskName.SEGMENT)

    def test_native(self) -> None:
        got = answer(self.spec, some_map())
        assert got["predictions"] == [
            {"label": "sky", "class_id": 2, "pixels": 1800, "fraction": 0.75},
            {"label": "flag", "class_id": 149, "pixels": 599, "fraction": 0.249583},
            {"label": "wall", "class_id": 0, "pixels": 1, "fraction": 0.000417},
        ]
        assert np.array_equal(png_pixels(got["label_map"]), some_map().label_map)

    def test_the_label_map_can_be_left_out_and_is_never_filtered(self) -> None:
        assert "label_map" not in answer(self.spec, some_map(), masks="none")
        got = answer(self.spec, some_map(), class_ids=frozenset({149}), threshold=0.9)
        assert [item["label"] for item in got["predictions"]] == ["flag"]
        assert np.array_equal(png_pixels(got["label_map"]), some_map().label_map)

    def test_hf_has_one_black_and_white_mask_per_class(self) -> None:
        items = answer(self.spec, some_map(), format="hf")
        assert [(item["label"], item["score"]) for item in items] == [
            ("sky", None),
            ("flag", None),
            ("wall", None),
        ]
        expected = np.where(some_map().label_map == 149, 255, 0)
        assert np.array_equal(png_pixels(items[1]["mask"]), expected)

    def test_coco(self) -> None:
        items = answer(self.spec, some_map(), format="coco")
        assert [item["category_id"] for item in items] == [3, 150, 1]
        assert np.array_equal(decode(**items[0]["segmentation"]), some_map().label_map == 2)

    def test_the_label_map_file_is_8_bit_grey(self) -> None:
        data = label_map_png(some_map())
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        # IHDR: bit depth 8, colour type 0
        assert (data[24], data[25]) == (8, 0)


rows, columns = np.mgrid[:100, :120]
SHAPES = {
    "disc": (rows - 50) ** 2 + (columns - 60) ** 2 < 900,
    "dot": (rows == 5) & (columns == 7),
    "row": (rows == 5) & (columns > 7) & (columns < 40),
    "diagonal": rows == columns,
    "whole picture": rows >= 0,
    "last corner": (rows == 99) & (columns == 119),
    "two parts": (abs(columns - 60) > 30) & (rows > 20),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_filled_polygons_give_the_mask_back(shape: str) -> None:
    polygons = mask_polygons(encode(SHAPES[shape]))
    assert all(len(polygon) >= 6 for polygon in polygons)
    parts = coco_mask.frPyObjects(polygons, 100, 120)
    filled = coco_mask.decode(coco_mask.merge(parts)).astype(bool)
    assert np.array_equal(filled, SHAPES[shape])


def test_holes_are_filled_and_empty_masks_have_no_polygon() -> None:
    ring = SHAPES["disc"] & ((rows - 50) ** 2 + (columns - 60) ** 2 > 100)
    assert mask_polygons(encode(ring)) == mask_polygons(encode(SHAPES["disc"]))
    assert mask_polygons(encode(rows < 0)) == []


class TestClassFilter:
    spec = spec_of(TaskName.DETECT)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("dog", {16}),
            (" Dog , CAT,,", {16, 15}),
            ("0,79", {0, 79}),
            ("person,0,sports ball", {0, 32}),
        ],
    )
    def test_names_and_numbers(self, text: str, expected: set[int]) -> None:
        assert parse_class_filter(text, self.spec) == expected

    def test_a_name_that_is_a_number_wins(self) -> None:
        assert parse_class_filter("1,2", spec_of(TaskName.CLASSIFY, "1", "0", "x")) == {0, 2}

    def test_an_exact_name_wins_over_one_of_other_case(self) -> None:
        spec = spec_of(TaskName.CLASSIFY, "Polish", "polish")
        assert parse_class_filter("Polish", spec) == {0}
        assert parse_class_filter("polish", spec) == {1}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("dgo,cat", "unknown class 'dgo' for some-detect, close to: dog"),
            ("80", r"unknown class id 80, some-detect has 0\.\.79"),
            ("9" * 5000, "unknown class id 999"),
            ("zzzz,dgo", "unknown class 'zzzz' for some-detect; unknown class 'dgo'"),
            ("-1", "unknown class '-1'"),
            ("²", "unknown class '²'"),
            (" , ", "names no class"),
            ("", "names no class"),
        ],
    )
    def test_unknown_ones_are_named(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            parse_class_filter(text, self.spec)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("hw", [(1, 1), (3, 5), (4097, 4099)], ids=str)
def test_every_pixel_of_a_class_map_counts(hw: tuple[int, int]) -> None:
    label_map = np.random.default_rng(0).integers(0, 256, hw, dtype=np.uint8)
    label_map[: hw[0] // 2] = 7
    pixels = class_pixels(label_map)
    assert pixels.tolist() == np.bincount(label_map.ravel(), minlength=256).tolist()
