"""Figures that the authors published for their models, and when they may be compared with.

From the tables of arXiv:2410.15091 and of the authors' repository. What could not be found there is
not listed. In percent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from model.config import PUBLISHED_INPUTS, ModelSpec, TaskName
from model.vocabulary import published_class_names

# pictures of the validation sets that the figures are for
FULL_SIZES: Final[Mapping[TaskName, int]] = MappingProxyType(
    {TaskName.CLASSIFY: 50_000, TaskName.DETECT: 5_000, TaskName.SEGMENT: 2_000}
)
DATA_NAMES: Final[Mapping[TaskName, str]] = MappingProxyType(
    {
        TaskName.CLASSIFY: "ImageNet-1K val",
        TaskName.DETECT: "COCO val2017",
        TaskName.SEGMENT: "ADE20K validation",
    }
)


@dataclass(frozen=True, slots=True)
class Published:
    """One row of a published table.

    Attributes:
        label: what tells it from other rows of the same model, e.g. the training schedule.
        values: metric -> percent.
    """

    label: str
    values: Mapping[str, float]


def _detector(label: str, **values: float) -> Published:
    return Published(label, {name.replace("_", " "): value for name, value in values.items()})


_CLASSIFIERS: Final = {"tiny": 83.5, "small": 84.6, "base": 85.3}
_SEGMENTERS: Final = {"tiny": (48.6, 49.4), "small": (50.6, 51.4), "base": (51.8, 52.6)}
_DETECTORS: Final = {
    "tiny": (
        _detector("1x", box_AP=47.6, box_AP50=69.6, box_AP75=52.3, mask_AP=42.9),
        # of the masks two figures are in circulation, 43.6 and 43.8
        _detector("3x", box_AP=49.3),
    ),
    "small": (
        _detector("1x", box_AP=49.2, box_AP50=70.8, box_AP75=54.2, mask_AP=44.0),
        _detector("3x", box_AP=50.5, mask_AP=44.6),
    ),
    "base": (_detector("1x", box_AP=50.4, mask_AP=45.1),),
}


def published_figures(spec: ModelSpec, *, multi_scale: bool) -> tuple[Published, ...]:
    """What was published for models of this task and size; a file does not say its schedule.

    Args:
        multi_scale: segmentation over several sizes.
    """
    if spec.task is TaskName.CLASSIFY:
        return (Published("paper", {"top-1": _CLASSIFIERS[spec.variant]}),)
    if spec.task is TaskName.SEGMENT:
        single, several = _SEGMENTERS[spec.variant]
        label, value = ("multi-scale", several) if multi_scale else ("single-scale", single)
        return (Published(label, {"mIoU": value}),)
    return _DETECTORS[spec.variant]


def why_not_comparable(spec: ModelSpec, *, num_pictures: int, total: int) -> str | None:
    """Why published figures say nothing about a measurement; None: they may be compared.

    Args:
        num_pictures: that were answered.
        total: of the data set.
    """
    if (
        spec.demo
        or spec.variant not in _CLASSIFIERS
        or spec.source_sha256 is None
        or spec.class_names != published_class_names(spec.task)
        or spec.input != PUBLISHED_INPUTS[spec.task]
    ):
        return f"{spec.name} is not one of the published models"
    full = FULL_SIZES[spec.task]
    if num_pictures != total:
        return f"only {num_pictures:,} of {total:,} pictures were measured"
    if total != full:
        return f"the published figures are for the {full:,} pictures of {DATA_NAMES[spec.task]}"
    return None
