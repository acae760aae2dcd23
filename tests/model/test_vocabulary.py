import pytest

from model.config import TaskName
from model.vocabulary import (
    COCO_CATEGORY_IDS,
    category_ids,
    class_names,
    published_class_names,
)


@pytest.mark.parametrize(
    ("vocabulary", "number", "known"),
    [
        (
            "imagenet1k",
            1000,
            {
                0: "tench",
                1: "goldfish",
                207: "golden retriever",
                517: "crane",
                999: "toilet tissue",
            },
        ),
        ("coco80", 80, {0: "person", 15: "cat", 16: "dog", 79: "toothbrush"}),
        ("ade20k150", 150, {0: "wall", 1: "building", 2: "sky", 12: "person", 149: "flag"}),
    ],
)
def test_lists_are_complete_and_in_order(
    vocabulary: str, number: int, known: dict[int, str]
) -> None:
    names = class_names(vocabulary)
    assert len(names) == number
    assert {class_id: names[class_id] for class_id in known} == known


@pytest.mark.parametrize("vocabulary", ["imagenet1k", "coco80", "ade20k150"])
def test_names_are_unique_and_clean(vocabulary: str) -> None:
    names = class_names(vocabulary)
    assert len({name.casefold() for name in names}) == len(names)
    assert all(name and name == name.strip() and name.isprintable() for name in names)
    # a filter is a list with commas between
    assert not any("," in name for name in names)


def test_every_task_has_its_published_list() -> None:
    assert {task: len(published_class_names(task)) for task in TaskName} == {
        TaskName.CLASSIFY: 1000,
        TaskName.DETECT: 80,
        TaskName.SEGMENT: 150,
    }


def test_coco_numbers_have_their_gaps() -> None:
    numbers = dict(zip(class_names("coco80"), category_ids(class_names("coco80")), strict=True))
    assert len(COCO_CATEGORY_IDS) == 80
    # from the annotation files: around every gap
    expected = {
        **{"person": 1, "fire hydrant": 11, "stop sign": 13, "giraffe": 25, "backpack": 27},
        **{"umbrella": 28, "handbag": 31, "bottle": 44, "wine glass": 46, "bed": 65},
        **{"dining table": 67, "toilet": 70, "tv": 72, "refrigerator": 82, "book": 84},
        **{"toothbrush": 90},
    }
    assert {name: numbers[name] for name in expected} == expected


def test_other_lists_count_from_one() -> None:
    assert category_ids(("cat", "dog")) == (1, 2)


def test_an_unknown_list_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown vocabulary 'voc', known: imagenet1k, coco80"):
        class_names("voc")
