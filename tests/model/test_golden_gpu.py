"""The comparison that the GPU runs use, on answers that are known to be near or far."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from model.masks import MaskPatch, patch_to_rle
from model.results import Classification, Detections, Segmentation
from tests.model import golden
from tests.model.golden_gpu import case_names, compare_photo, outside

CLASSIFY, DETECT, SEGMENT = (
    "classify_tiny_photo_coffee",
    "detect_tiny_rocket_400",
    "segment_tiny_photo_coffee",
)
HALF = torch.float16


def reference(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return golden.load_case(name)


def objects() -> Detections:
    info, ref = reference(DETECT)
    masks = golden.module("compare").unpack_bits(ref["masks"], info["masks_shape"])
    hw = (masks.shape[1], masks.shape[2])
    return Detections(
        boxes=ref["boxes"],
        scores=ref["scores"],
        class_ids=ref["labels"],
        masks=tuple(patch_to_rle(MaskPatch(mask, 0, 0), hw) for mask in masks),
    )


def test_all_cases_of_all_nine_models() -> None:
    cases = case_names()
    manifests = [reference(name)[0]["manifest"] for name in cases]
    assert len(cases) == 40
    assert len(set(manifests)) >= 9
    switches = sum(a != b for a, b in zip(manifests[1:], manifests, strict=False))
    assert switches == len(set(manifests)) - 1, "a model would be loaded twice"


def test_classes() -> None:
    logits = reference(CLASSIFY)[1]["logits"]
    own = torch.from_numpy(logits).softmax(dim=0).numpy()
    assert outside(compare_photo(CLASSIFY, Classification(own), HALF)) == []
    swapped = own.copy()
    swapped[np.argsort(own)[-2:]] = own[np.argsort(own)[:-3:-1]]
    far = outside(compare_photo(CLASSIFY, Classification(swapped), HALF))
    assert far[0].metric == "top 1 is the same"


def test_pixels() -> None:
    truth = reference(SEGMENT)[1]["argmax"]
    rows = compare_photo(SEGMENT, Segmentation(truth), HALF)
    assert [(row.value, row.ok) for row in rows] == [(1.0, None), (1.0, True)]
    shifted = Segmentation(np.roll(truth, 9, axis=0))
    (far,) = outside(compare_photo(SEGMENT, shifted, HALF))
    assert far.metric == "agreement where the margin is clear"


def test_objects() -> None:
    own = objects()
    assert outside(compare_photo(DETECT, own, HALF)) == []
    moved = replace(own, boxes=own.boxes + 15)
    assert len(outside(compare_photo(DETECT, moved, HALF))) == 4
    # near enough for the case's own tolerance, not for most to be as they were
    lower = replace(own, scores=np.clip(own.scores - 0.03, 0.0501, 1))
    (far,) = outside(compare_photo(DETECT, lower, HALF))
    assert far.metric.startswith("share found")
