"""ImageNet folders and files of labels: which class a picture belongs to, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from model.evaluation.errors import ClassMismatchError, LayoutError
from model.evaluation.imagenet import open_imagenet
from model.vocabulary import class_names
from tests.model.evaluation.layouts import noise, write_imagenet

NAMES = ("tabby cat", "dog", "owl")
IMAGENET = class_names("imagenet1k")
# sorted order is by number; the development kit counts in another one
SYNSETS = [f"n{number:08d}" for number in range(2_000_000, 2_100_000, 100)]


def truths(root: Path, names: tuple[str, ...] = NAMES, **options: Path) -> dict[str, int]:
    return {sample.name: sample.truth for sample in open_imagenet(root, names, **options).samples}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "val" / name).touch()
    return root


def test_folders_are_named_after_classes(tmp_path: Path) -> None:
    touch(tmp_path, "Owl/1.JPEG", "tabby_cat/2.jpg", "tabby_cat/1.png", "tabby_cat/notes.txt")
    assert truths(tmp_path) == {
        "val/Owl/1.JPEG": 2,
        "val/tabby_cat/1.png": 0,
        "val/tabby_cat/2.jpg": 0,
    }


def test_a_thousand_synsets_count_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{synset}/a.JPEG" for synset in reversed(SYNSETS)))
    found = truths(tmp_path, IMAGENET)
    assert found == {f"val/{synset}/a.JPEG": i for i, synset in enumerate(SYNSETS)}


def test_fewer_synsets_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{synset}/a.JPEG" for synset in SYNSETS[:10]))
    with pytest.raises(ClassMismatchError, match="found 10 synsets and a model of 1000 classes"):
        truths(tmp_path, IMAGENET)


def test_synsets_that_are_the_models_own_names_are_names(tmp_path: Path) -> None:
    touch(tmp_path, f"{SYNSETS[1]}/a.JPEG")
    assert list(truths(tmp_path, (SYNSETS[2], SYNSETS[1])).values()) == [1]


def test_unknown_folders_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg", "zebra/1.jpg")
    with pytest.raises(ClassMismatchError, match=r"1 of 2 folders .* has 3: zebra"):
        truths(tmp_path)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (["train/dog/1.jpg"], "no folder val/; expected the ImageNet .* layout, found train/"),
        (["val/1.jpg"], "has no folders; expected one for each class, found 1.jpg"),
        (["val/dog/notes.txt"], "the 1 folders of .* hold no pictures"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, files: list[str], problem: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(LayoutError, match=problem):
        truths(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="absent is not a folder; expected the ImageNet"):
        truths(tmp_path / "absent")


def labelled(tmp_path: Path, lines: list[str], *pictures: str) -> tuple[Path, Path]:
    touch(tmp_path, *pictures)
    (tmp_path / "labels.txt").write_text("\n".join(lines) + "\n")
    return tmp_path, tmp_path / "labels.txt"


@pytest.mark.parametrize(
    "lines",
    [
        ["b.JPEG 2", "a.JPEG 0"],
        ["b.JPEG owl", "a.JPEG  tabby cat"],
        ["tabby cat", "owl"],
    ],
)
def test_labels_of_pictures_side_by_side(tmp_path: Path, lines: list[str]) -> None:
    root, labels = labelled(tmp_path, lines, "a.JPEG", "b.JPEG")
    assert truths(root, labels=labels) == {"val/a.JPEG": 0, "val/b.JPEG": 2}


def test_synsets_as_labels(tmp_path: Path) -> None:
    pictures = [f"{i:04d}.JPEG" for i in range(1001)]
    root, labels = labelled(tmp_path, [*reversed(SYNSETS), SYNSETS[5]], *pictures)
    found = truths(root, IMAGENET, labels=labels)
    assert [found[f"val/{name}"] for name in pictures] == [*range(999, -1, -1), 5]


def test_numbers_of_the_development_kit_need_its_list(tmp_path: Path) -> None:
    """They are counted in an order of their own, so the plain number would be a wrong class."""
    root, labels = labelled(tmp_path, ["490", "1"], "a.JPEG", "b.JPEG")
    with pytest.raises(LayoutError, match=r"map_clsloc.txt is needed"):
        truths(root, IMAGENET, labels=labels)
    kit = tmp_path / "map_clsloc.txt"
    order = np.random.default_rng(0).permutation(1000)
    kit.write_text("\n".join(f"{SYNSETS[k]} {i + 1} name_{k}" for i, k in enumerate(order)))
    found = truths(root, IMAGENET, labels=labels, synsets=kit)
    assert found == {"val/a.JPEG": order[489], "val/b.JPEG": order[0]}


@pytest.mark.parametrize(
    ("lines", "error", "problem"),
    [
        (["a.JPEG 3", "b.JPEG 0"], ClassMismatchError, "has class 3; the model's are 0 to 2"),
        (["a.JPEG fox", "b.JPEG owl"], ClassMismatchError, "no classes of the model: fox"),
        (["a.JPEG 1", "c.JPEG 1"], LayoutError, "line 2: expected a picture of val/"),
        (["a.JPEG 1", "a.JPEG 1"], LayoutError, "labels 1 pictures in 2 lines, val/ has 2"),
        (["a.JPEG 1"], LayoutError, "labels 1 pictures in 1 lines, val/ has 2"),
        (["owl"], LayoutError, "has 1 labels for 2 pictures"),
        (["owl", "", "owl"], LayoutError, "found an empty line"),
    ],
)
def test_labels_that_do_not_fit(
    tmp_path: Path, lines: list[str], error: type[Exception], problem: str
) -> None:
    root, labels = labelled(tmp_path, lines, "a.JPEG", "b.JPEG")
    with pytest.raises(error, match=problem):
        truths(root, labels=labels)


def test_a_limit_takes_pictures_of_all_folders(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{i}.jpg" for name in ("dog", "owl", "tabby cat") for i in range(4)))
    whole = open_imagenet(tmp_path, NAMES)
    part = whole.limited(6)
    assert [sample.truth for sample in part.samples] == [1, 1, 2, 2, 0, 0]
    assert (part.total, part.fingerprint) == (12, whole.fingerprint)
    assert whole.limited(100) is whole


def test_the_fingerprint_sees_names_sizes_and_truths(tmp_path: Path) -> None:
    write_imagenet(tmp_path, {"dog/1.png": noise(0, 8, 8), "owl/1.png": noise(1, 8, 8)})
    prints = [open_imagenet(tmp_path, NAMES).fingerprint]
    assert open_imagenet(tmp_path, NAMES).fingerprint == prints[0]
    prints.append(open_imagenet(tmp_path, tuple(reversed(NAMES))).fingerprint)
    write_imagenet(tmp_path, {"dog/1.png": noise(0, 9, 9)})
    prints.append(open_imagenet(tmp_path, NAMES).fingerprint)
    touch(tmp_path, "dog/2.png")
    prints.append(open_imagenet(tmp_path, NAMES).fingerprint)
    assert len(set(prints)) == 4
