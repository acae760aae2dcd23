"""The nine published models, full size, from official checkpoint file to answer."""

import pytest
import torch

from model.predictor import Predictor
from tests.model import golden
from tests.model.golden_runs import (
    Outcome,
    load_published,
    run_photo_case,
    run_tap_case,
    run_tensor_case,
)

pytestmark = [pytest.mark.golden, pytest.mark.timeout(600)]

RUNNERS = {"tensor": run_tensor_case, "taps": run_tap_case, "photo": run_photo_case}
# others of the same kind go through the same model every time
NIGHTLY = {
    "classify_base_photo_flower",
    "classify_base_photo_rocket",
    "classify_small_photo_flower",
    "classify_small_photo_rocket",
    "detect_base_china_800",
    "detect_base_flower_800",
    "detect_small_china_800",
    "detect_small_coffee_800",
    "detect_tiny_coffee_800",
    "detect_tiny_rocket_800",
    "segment_base_480x640",
    "segment_base_photo_coffee",
    "segment_small_480x640",
    "segment_small_photo_coffee",
    "segment_tiny_480x640",
    "segment_tiny_512x512",
    "segment_tiny_photo_china",
}
CASES = [
    pytest.param(kind, name, id=name, marks=[pytest.mark.nightly] if name in NIGHTLY else [])
    for manifest, kind, name in sorted(
        (golden.load_case(name)[0]["manifest"], kind, name)
        for kind in RUNNERS
        for name in golden.case_names(kind=kind)
    )
]


class LastModel:
    """The model of the last case; the cases are sorted so that each is loaded once."""

    def __init__(self) -> None:
        self.name = ""
        self.predictor: Predictor | None = None

    def get(self, manifest: str) -> Predictor:
        if self.name != manifest or self.predictor is None:
            self.predictor = None
            self.predictor, self.name = load_published(manifest), manifest
        return self.predictor


@pytest.fixture(scope="module")
def models() -> LastModel:
    return LastModel()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_reproduces_the_published_implementation(kind: str, name: str, models: LastModel) -> None:
    info, _ = golden.load_case(name)
    with torch.inference_mode():
        outcomes: list[Outcome] = RUNNERS[kind](name, models.get(info["manifest"]))
    assert outcomes
    assert [outcome for outcome in outcomes if not outcome.ok] == []


def test_all_nine_models_and_all_kinds_are_covered() -> None:
    models = {golden.load_case(case.values[1])[0]["manifest"] for case in CASES}
    published = {
        f"manifests/{t}_{v}.json"
        for t in ("classify", "detect", "segment")
        for v in ("tiny", "small", "base")
    }
    assert published <= models
    assert {case.values[0] for case in CASES} == set(RUNNERS)
    assert len(CASES) == 41
