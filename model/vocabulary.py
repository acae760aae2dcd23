"""The class lists of the published models, and the category numbers of COCO."""

from functools import cache
from importlib import resources
from typing import Final

from model.config import TaskName

# COCO numbers its 80 categories 1..90 and leaves out the ten that were never annotated.
_COCO_UNUSED_IDS: Final = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_CATEGORY_IDS: Final[tuple[int, ...]] = tuple(
    number for number in range(1, 91) if number not in _COCO_UNUSED_IDS
)

_PUBLISHED_LISTS: Final = {
    TaskName.CLASSIFY: "imagenet1k",
    TaskName.DETECT: "coco80",
    TaskName.SEGMENT: "ade20k150",
}


@cache
def class_names(vocabulary: str) -> tuple[str, ...]:
    """Names in the order of the class ids.

    Args:
        vocabulary: `imagenet1k` (WordNet-id order), `coco80` (category-id order) or `ade20k150`
            (`wall` first, the annotation files' "other" left out).

    Raises:
        ValueError: unknown vocabulary; the message lists the known ones.
    """
    if vocabulary not in _PUBLISHED_LISTS.values():
        known = ", ".join(_PUBLISHED_LISTS.values())
        raise ValueError(f"unknown vocabulary {vocabulary!r}, known: {known}")
    path = resources.files("model") / "class_names" / f"{vocabulary}.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def published_class_names(task: TaskName) -> tuple[str, ...]:
    """The classes that the published models of `task` were trained on."""
    return class_names(_PUBLISHED_LISTS[task])


def category_ids(names: tuple[str, ...]) -> tuple[int, ...]:
    """COCO `category_id` of every class id.

    The official numbers 1..90 when `names` is the COCO list itself; otherwise class id + 1, since
    COCO files reserve 0 for the background.
    """
    if names == class_names("coco80"):
        return COCO_CATEGORY_IDS
    return tuple(range(1, len(names) + 1))
