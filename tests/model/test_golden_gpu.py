"""The comparison that the GPU runs use, on answers that are known to be near or far."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.config import TaskName
from model.masks import MaskPatch, patch_to_rle
from model.results import Classification, Detections, Segmentation
from tests.model import golden, golden_gpu
from tests.model.compiled_cases import make_model, make_params, make_pictures
from tests.model.golden_gpu import (
    AGREEMENT,
    FOUND,
    GpuModels,
    GpuRow,
    beside_plain,
    case_names,
    compare_photo,
    mean_found,
    outside,
)

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


def test_half_precision_is_held_against_pytorchs_own() -> None:
    own, moved = objects(), replace(objects(), boxes=objects().boxes + 15)
    near, far = (compare_photo(DETECT, answer, HALF) for answer in (own, moved))
    both = beside_plain(near, far)
    assert [(row.value, row.plain) for row in both] == [
        (a.value, b.value) for a, b in zip(near, far, strict=True)
    ]
    assert outside(beside_plain(far, near)) == [], "single cases decide nothing"
    better, worse, same = both, beside_plain(far, near), beside_plain(far, far)
    means = [mean_found(rows) for rows in (better, worse, same)]
    assert [own and own.ok for own in means] == [True, False, True]
    assert mean_found(far) is None


@pytest.mark.parametrize(
    ("share", "plain", "ok"),
    [(0.990, 0.991, True), (0.990, 0.993, False), (0.996, 1.0, True), (0.994, 1.0, False)],
)
def test_pixels_are_held_against_pytorchs_own(share: float, plain: float, ok: bool) -> None:
    own, other = (GpuRow(SEGMENT, AGREEMENT, value, None) for value in (share, plain))
    assert beside_plain([own], [other]) == [GpuRow(SEGMENT, AGREEMENT, share, ok, plain)]


def test_the_mean_over_the_cases_decides() -> None:
    rows = [GpuRow("a", FOUND, 0.7, None, 0.8), GpuRow("b", FOUND, 0.9, None, 0.85)]
    found = mean_found([*rows, GpuRow("c", AGREEMENT, 0.0, None, 1.0)])
    assert found == GpuRow("mean of 2 detection cases", FOUND, 0.8, True, 0.825)


def test_without_pytorchs_own_run_a_case_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class TooLarge(GpuModels):
        def get(self, info: dict[str, Any]) -> Any:
            return "compiled"

        def get_plain(self, info: dict[str, Any]) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(golden_gpu, "_run_photo", lambda _info, _predictor: objects())
    with pytest.raises(RuntimeError, match=r"own run in torch\.float16 failed: CUDA out of memory"):
        golden_gpu.compare(DETECT, TooLarge(HALF, "cpu"))


# torchvision's RoIAlign knows no bfloat16
@pytest.mark.parametrize(
    ("task", "dtype"),
    [*((task, HALF) for task in TaskName), (TaskName.CLASSIFY, torch.bfloat16)],
    ids=str,
)
def test_pytorchs_own_run(
    task: TaskName, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain network in half precision, from a picture to its answer."""
    network, spec = make_model(task)
    models = GpuModels(dtype, "cpu")
    monkeypatch.setattr(models, "_load", lambda _info: (network, spec))
    plain = models.get_plain({})
    prepared = plain.prepare(make_pictures(task, 1)[0])
    (raw,) = plain.infer([prepared], make_params(task)[:1])
    assert plain.finish(raw, prepared) is not None
    assert {own.dtype for own in plain._network.parameters()} == {dtype}
    assert next(network.parameters()).dtype == torch.float32
