"""Class ids from the names and numbers by which data sets of classification call their classes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from model.evaluation.errors import ClassMismatchError, LayoutError
from model.evaluation.samples import plain_name, some
from model.images import PICTURE_SUFFIXES

NUM_SYNSETS: Final = 1000
_SYNSET: Final = re.compile(r"n\d{8}")


def is_synset(name: str) -> bool:
    """Whether this is a WordNet id as ImageNet writes it, e.g. `n01440764`."""
    return _SYNSET.fullmatch(name) is not None


def synset_ids(synsets: Sequence[str], num_classes: int) -> dict[str, int]:
    """Synset -> class id: sorted, as the published models count them.

    Raises:
        ClassMismatchError: not the 1000 of ImageNet-1K, or a model of other classes. Of fewer
            nobody could tell which ones they are.
    """
    distinct = sorted(set(synsets))
    if len(distinct) != NUM_SYNSETS or num_classes != NUM_SYNSETS:
        raise ClassMismatchError(
            f"found {len(distinct)} synsets and a model of {num_classes} classes; synsets in "
            f"sorted order are class ids only if both are {NUM_SYNSETS}. For other sets name the "
            "classes as the model does"
        )
    return {synset: i for i, synset in enumerate(distinct)}


def class_ids_by_name(
    names: Sequence[str], class_names: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """Name -> class id, and the names that are no class, or of two classes.

    Exact names win; else letter case, `_`, `-` and spaces make no difference.
    """
    exact: dict[str, list[int]] = {}
    plain: dict[str, list[int]] = {}
    for i, name in enumerate(class_names):
        exact.setdefault(name, []).append(i)
        plain.setdefault(plain_name(name), []).append(i)
    ids, unknown = {}, []
    for name in names:
        found = exact.get(name) or plain.get(plain_name(name), [])
        if len(found) == 1:
            ids[name] = found[0]
        else:
            unknown.append(name)
    return ids, unknown


def read_labels(
    path: Path, pictures: Sequence[Path], class_names: Sequence[str], synsets: Path | None
) -> dict[str, int]:
    """Name of a picture -> class id.

    Four forms are known, one line a picture:

    - `ILSVRC2012_val_00000001.JPEG 65`: a name and a class id from 0 on, a synset or a class name;
    - `n01751748`: synsets in the order of the sorted names;
    - `490`: numbers of the ILSVRC development kit in the order of the sorted names, as in
      `ILSVRC2012_validation_ground_truth.txt`. They do not follow the order of the synsets, so
      `synsets` must say what they mean;
    - a class name, in the order of the sorted names.

    Raises:
        LayoutError: unreadable, another number of lines than pictures, or unknown pictures.
        ClassMismatchError: a label is no class of the model.
    """
    if not pictures:
        raise LayoutError("found no pictures directly in val/; labels are for pictures there")
    lines = _lines(path)
    if _names_picture(lines[0]):
        names, labels = _split(path, lines, {picture.name for picture in pictures})
        return dict(zip(names, _class_ids(path, labels, class_names, synsets=None), strict=True))
    if len(lines) != len(pictures):
        raise LayoutError(f"{path} has {len(lines)} labels for {len(pictures)} pictures")
    if synsets is None and all(line.isdecimal() for line in lines):
        raise LayoutError(
            f"{path} has numbers without pictures' names, as the ILSVRC development kit counts; "
            "its map_clsloc.txt is needed to know which synsets they are (--synsets)"
        )
    ids = _class_ids(path, lines, class_names, synsets=synsets)
    return {picture.name: label for picture, label in zip(pictures, ids, strict=True)}


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise LayoutError(f"cannot read the labels in {path}: {exc}") from exc
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines or not all(lines):
        raise LayoutError(f"{path}: expected one label a line, found an empty line")
    return lines


def _names_picture(line: str) -> bool:
    return Path(line.split()[0]).suffix.lower() in PICTURE_SUFFIXES


def _split(path: Path, lines: Sequence[str], pictures: set[str]) -> tuple[list[str], list[str]]:
    names, labels = [], []
    for number, line in enumerate(lines, start=1):
        parts = line.split(maxsplit=1)
        if len(parts) != 2 or parts[0] not in pictures:
            raise LayoutError(f"{path}, line {number}: expected a picture of val/ and its label")
        names.append(parts[0])
        labels.append(parts[1])
    if len(set(names)) != len(names) or len(names) != len(pictures):
        raise LayoutError(
            f"{path} labels {len(set(names))} pictures in {len(names)} lines, val/ has "
            f"{len(pictures)}"
        )
    return names, labels


def _class_ids(
    path: Path, labels: Sequence[str], class_names: Sequence[str], *, synsets: Path | None
) -> list[int]:
    if synsets is not None:
        numbers = _read_kit(synsets)
        unknown = sorted(set(labels) - numbers.keys())
        if unknown:
            raise ClassMismatchError(f"{path}: {synsets} does not tell of {some(unknown)}")
        ids = synset_ids(list(numbers.values()), len(class_names))
        return [ids[numbers[label]] for label in labels]
    if all(label.isdecimal() for label in labels):
        found = [int(label) for label in labels]
        if max(found) >= len(class_names):
            raise ClassMismatchError(
                f"{path} has class {max(found)}; the model's are 0 to {len(class_names) - 1}"
            )
        return found
    if all(is_synset(label) for label in labels) and not set(labels) <= set(class_names):
        ids = synset_ids(labels, len(class_names))
        return [ids[label] for label in labels]
    by_name, unknown = class_ids_by_name(sorted(set(labels)), class_names)
    if unknown:
        raise ClassMismatchError(f"{path}: no classes of the model: {some(unknown)}")
    return [by_name[label] for label in labels]


def _read_kit(path: Path) -> Mapping[str, str]:
    """Number of the development kit -> synset, from lines like `n02119789 1 kit_fox`."""
    numbers: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        parts = line.split()
        if len(parts) < 2 or not is_synset(parts[0]) or not parts[1].isdecimal():
            raise LayoutError(f"{path}, line {number}: expected a synset and its number")
        numbers[parts[1]] = parts[0]
    return numbers
