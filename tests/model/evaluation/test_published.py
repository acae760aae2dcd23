"""Published figures stand beside measured ones only where they are about the same thing."""

from dataclasses import replace

import pytest

from model.config import PUBLISHED_INPUTS, InputConfig, ModelSpec, TaskName
from model.evaluation.published import FULL_SIZES, published_figures, why_not_comparable
from model.vocabulary import published_class_names


def published_spec(task: TaskName, variant: str = "tiny") -> ModelSpec:
    return ModelSpec(
        name=f"spatial-mamba-{variant}-{task}",
        task=task,
        variant=variant,
        class_names=published_class_names(task),
        input=PUBLISHED_INPUTS[task],
        source_sha256="0" * 64,
    )


@pytest.mark.parametrize("task", list(TaskName))
def test_a_published_model_on_the_whole_set_is_compared(task: TaskName) -> None:
    full = FULL_SIZES[task]
    assert why_not_comparable(published_spec(task), num_pictures=full, total=full) is None


@pytest.mark.parametrize(
    ("change", "num_pictures", "total", "reason"),
    [
        ({"demo": True}, 50_000, 50_000, "not one of the published models"),
        ({"variant": "demo"}, 50_000, 50_000, "not one of the published models"),
        ({"source_sha256": None}, 50_000, 50_000, "not one of the published models"),
        ({"class_names": ("cat", "dog")}, 50_000, 50_000, "not one of the published models"),
        ({"input": InputConfig(short=224, crop=224)}, 50_000, 50_000, "not one of"),
        ({}, 100, 50_000, "only 100 of 50,000 pictures were measured"),
        ({}, 49_999, 50_000, "only 49,999 of 50,000"),
        ({}, 10_000, 10_000, "for the 50,000 pictures of ImageNet-1K val"),
    ],
)
def test_anything_else_is_not(
    change: dict[str, object], num_pictures: int, total: int, reason: str
) -> None:
    spec = replace(published_spec(TaskName.CLASSIFY), **change)  # type: ignore[arg-type]
    found = why_not_comparable(spec, num_pictures=num_pictures, total=total)
    assert found is not None
    assert reason in found


def test_every_published_size_has_its_figures() -> None:
    for variant in ("tiny", "small", "base"):
        for task in TaskName:
            rows = published_figures(published_spec(task, variant), multi_scale=False)
            assert rows
            assert all(40 < value < 90 for row in rows for value in row.values.values())
    single, several = (
        published_figures(published_spec(TaskName.SEGMENT, "base"), multi_scale=many)[0]
        for many in (False, True)
    )
    assert (single.values, several.values) == ({"mIoU": 51.8}, {"mIoU": 52.6})
    labels = [
        r.label for r in published_figures(published_spec(TaskName.DETECT), multi_scale=False)
    ]
    assert labels == ["1x", "3x"]
