"""Tensors as the real client reads them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import InputConfig, ModelSpec, TaskName
from model.results import Classification, Detections, Result, Rle, Segmentation
from service.answers import AnswerOptions
from service.engine.base import Outcome
from service.errors import InvalidInferenceRequestError
from service.open_inference.response import encode_response
from service.open_inference.results import as_classes, output_tensors
from service.open_inference.tensors import OUTPUTS, Tensor, numbers, texts

pytest.importorskip("tritonclient.http", reason="tensors are read by Triton's client")

import tritonclient.http as client

LABELS = ("cat", "dog", "Straße")


def spec_of(task: TaskName) -> ModelSpec:
    return ModelSpec(
        name="model",
        task=task,
        variant="demo",
        class_names=LABELS,
        input=InputConfig(short=32),
        demo=True,
    )


def outcome(result: Result, height: int = 4, width: int = 6) -> Outcome:
    return Outcome(result=result, height=height, width=width, stage_seconds={}, batch_size=1)


def objects(*scores: float, with_masks: bool = True) -> Outcome:
    count = len(scores)
    return outcome(
        Detections(
            boxes=np.arange(4 * count, dtype=np.float32).reshape(count, 4),
            scores=np.array(scores, np.float32),
            class_ids=np.arange(count) % len(LABELS),
            masks=tuple(Rle(4, 6, f"counts{n}") for n in range(count)) if with_masks else None,
        )
    )


def as_client(outputs: list[tuple[Tensor, bool]]) -> Any:
    body, length = encode_response("model", "id", outputs)
    return client.InferResult.from_response_body(body, header_length=length)


def tensors(task: TaskName, *outcomes: Outcome, **options: Any) -> dict[str, Tensor]:
    return output_tensors(spec_of(task), outcomes, AnswerOptions(**options), max_pixels=100)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.lists(st.text(max_size=5), max_size=3), min_size=1, max_size=3),
    values=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    is_binary=st.booleans(),
)
def test_the_client_reads_what_was_written(
    rows: list[list[str]], values: list[float], is_binary: bool
) -> None:
    width = max(len(row) for row in rows)
    named = [texts("texts", rows, width), numbers("values", "FP32", [values])]
    found = as_client([(tensor, is_binary) for tensor in named])
    expected = [[*row, *[""] * (width - len(row))] for row in rows]
    strings = found.as_numpy("texts")
    assert strings.shape == (len(rows), width)
    read = [[one.decode() if is_binary else one for one in row] for row in strings.tolist()]
    assert read == expected
    np.testing.assert_array_equal(found.as_numpy("values"), np.array([values], np.float32))


def test_binary_and_json_outputs_in_one_answer() -> None:
    first, last = numbers("first", "INT64", [1, -1]), numbers("last", "INT32", [2])
    found = as_client([(first, True), (texts("texts", [["a"]], 1), False), (last, True)])
    assert found.as_numpy("first").tolist() == [1, -1]
    assert found.as_numpy("texts").tolist() == [["a"]]
    assert found.as_numpy("last").tolist() == [2]


@pytest.mark.parametrize("task", list(TaskName))
def test_the_outputs_are_those_of_the_metadata(task: TaskName) -> None:
    result = {
        TaskName.CLASSIFY: outcome(Classification(np.array([0.2, 0.7, 0.1], np.float32))),
        TaskName.DETECT: objects(0.9, 0.5),
        TaskName.SEGMENT: outcome(Segmentation(np.zeros((4, 6), np.uint8))),
    }[task]
    made = tensors(task, result, result)
    assert [
        (one.name, one.datatype, tuple(-1 if wanted == -1 else found for wanted, found in pair))
        for one, spec in zip(made.values(), OUTPUTS[task], strict=True)
        for pair in [list(zip(spec.shape, one.shape, strict=True))]
    ] == [(spec.name, spec.datatype, spec.shape) for spec in OUTPUTS[task]]


def test_classes_are_ranked() -> None:
    made = tensors(
        TaskName.CLASSIFY,
        outcome(Classification(np.array([0.2, 0.7, 0.1], np.float32))),
        outcome(Classification(np.array([0.5, 0.2, 0.3], np.float32))),
        top_k=2,
    )
    assert np.asarray(made["class_ids"].values).tolist() == [[1, 0], [0, 2]]
    assert made["labels"].values == ["dog", "cat", "cat", "Straße"]


def test_classes_as_text() -> None:
    result = outcome(Classification(np.array([0.25, 0.625, 0.125], np.float32)))
    made = as_classes("scores", spec_of(TaskName.CLASSIFY), [result], AnswerOptions(), 2)
    assert (made.shape, made.values) == ((1, 2), ["0.625000:1:dog", "0.250000:0:cat"])


def test_rows_of_objects_are_filled_up() -> None:
    made = tensors(TaskName.DETECT, objects(0.9, 0.8, 0.1), objects(), threshold=0.5)
    values = {name: tensor.values for name, tensor in made.items()}
    assert np.asarray(values["num_detections"]).tolist() == [2, 0]
    assert np.asarray(values["boxes"]).tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0.0] * 4] * 2]
    assert np.asarray(values["class_ids"]).tolist() == [[0, 1], [-1, -1]]
    assert values["labels"] == ["cat", "dog", "", ""]
    assert values["masks"] == ["counts0", "counts1", "", ""]
    assert np.asarray(values["image_sizes"]).tolist() == [[4, 6], [4, 6]]


def test_no_objects_at_all() -> None:
    found = as_client([(one, True) for one in tensors(TaskName.DETECT, objects()).values()])
    assert found.as_numpy("boxes").shape == (1, 0, 4)
    assert found.as_numpy("labels").shape == (1, 0)


def test_masks_that_were_not_computed_are_empty() -> None:
    assert tensors(TaskName.DETECT, objects(0.9, with_masks=False))["masks"].values == [""]


def test_label_maps_of_different_sizes_are_refused() -> None:
    maps = [outcome(Segmentation(np.zeros(size, np.uint8))) for size in ((4, 6), (6, 4))]
    with pytest.raises(InvalidInferenceRequestError, match="6x4, 4x6"):
        tensors(TaskName.SEGMENT, *maps)


def test_label_maps_are_bounded_together() -> None:
    maps = [outcome(Segmentation(np.zeros((5, 10), np.uint8)))] * 3
    assert tensors(TaskName.SEGMENT, *maps[:2])["label_map"].shape == (2, 5, 10)
    with pytest.raises(InvalidInferenceRequestError, match="150 pixels"):
        tensors(TaskName.SEGMENT, *maps)
