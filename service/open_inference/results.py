"""What a model found -> output tensors. Pure functions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from model.config import ModelSpec
from model.results import Classification, Detections, Segmentation
from service.answers import AnswerOptions, RankedClass, kept_detections, ranked_classes
from service.engine.base import Outcome
from service.errors import InvalidInferenceRequestError
from service.open_inference.tensors import Tensor, numbers, texts


def output_tensors(
    spec: ModelSpec,
    outcomes: Sequence[Outcome],
    options: AnswerOptions,
    *,
    max_pixels: int,
) -> dict[str, Tensor]:
    """All outputs of the model's task, by name; one row for each outcome.

    Args:
        max_pixels: of all label maps together.

    Raises:
        InvalidInferenceRequestError: label maps of different sizes, or too large ones.
    """
    results: list[Any] = [outcome.result for outcome in outcomes]
    if isinstance(results[0], Segmentation):
        return {"label_map": _label_map(results, max_pixels)}
    if isinstance(results[0], Detections):
        sizes = [(outcome.height, outcome.width) for outcome in outcomes]
        made = [*_objects(spec, results, options), numbers("image_sizes", "INT32", sizes)]
    else:
        made = list(_classes(spec, results, options))
    return {tensor.name: tensor for tensor in made}


def as_classes(
    name: str, spec: ModelSpec, outcomes: Sequence[Outcome], options: AnswerOptions, count: int
) -> Tensor:
    """The `count` best classes as texts `score:class id:label`, Triton's classification."""
    best = replace(options, top_k=count)
    rows = [
        [f"{item.score:f}:{item.class_id}:{spec.class_names[item.class_id]}" for item in ranked]
        for ranked in _ranked([outcome.result for outcome in outcomes], best)
    ]
    return texts(name, rows, len(rows[0]))


def _ranked(results: Sequence[Any], options: AnswerOptions) -> list[list[RankedClass]]:
    # without a threshold every picture has the same number of them
    return [
        ranked_classes(result, options) for result in results if isinstance(result, Classification)
    ]


def _classes(spec: ModelSpec, results: Sequence[Any], options: AnswerOptions) -> list[Tensor]:
    rows = _ranked(results, options)
    labels = [[spec.class_names[item.class_id] for item in row] for row in rows]
    return [
        numbers("scores", "FP32", [[item.score for item in row] for row in rows]),
        numbers("class_ids", "INT64", [[item.class_id for item in row] for row in rows]),
        texts("labels", labels, len(labels[0])),
    ]


def _objects(
    spec: ModelSpec, results: Sequence[Detections], options: AnswerOptions
) -> list[Tensor]:
    """Rows are filled up to the longest: zeros, class id -1, empty strings."""
    kept = [kept_detections(result, options) for result in results]
    counts = [len(indices) for indices in kept]
    width = max(counts)
    boxes = np.zeros((len(kept), width, 4), np.float32)
    scores = np.zeros((len(kept), width), np.float32)
    class_ids = np.full((len(kept), width), -1, np.int64)
    masks = []
    for row, (result, indices) in enumerate(zip(results, kept, strict=True)):
        boxes[row, : len(indices)] = result.boxes[indices]
        scores[row, : len(indices)] = result.scores[indices]
        class_ids[row, : len(indices)] = result.class_ids[indices]
        masks.append([result.masks[index].counts for index in indices] if result.masks else [])
    labels = [
        [spec.class_names[number] for number in ids[:count]]
        for ids, count in zip(class_ids.tolist(), counts, strict=True)
    ]
    return [
        numbers("num_detections", "INT32", counts),
        numbers("boxes", "FP32", boxes),
        numbers("scores", "FP32", scores),
        numbers("class_ids", "INT64", class_ids),
        texts("labels", labels, width),
        texts("masks", masks, width),
    ]


def _label_map(results: Sequence[Any], max_pixels: int) -> Tensor:
    maps = [result.label_map for result in results]
    sizes = sorted({label_map.shape for label_map in maps})
    if len(sizes) > 1:
        found = ", ".join(f"{width}x{height}" for height, width in sizes[:4])
        raise InvalidInferenceRequestError(
            f"the pictures of one request must have one size to share a tensor, found {found}"
        )
    pixels = len(maps) * maps[0].size
    if pixels > max_pixels:
        raise InvalidInferenceRequestError(
            f"the label maps have {pixels} pixels together, at most {max_pixels} in one answer; "
            "send fewer pictures"
        )
    return numbers("label_map", "UINT8", maps[0][None] if len(maps) == 1 else np.stack(maps))
