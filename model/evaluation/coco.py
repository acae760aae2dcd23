"""Detection: `annotations/instances_val2017.json` and `val2017/`, the layout of COCO."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from model.evaluation.errors import ClassMismatchError, LayoutError
from model.evaluation.labels import class_ids_by_name
from model.evaluation.samples import Dataset, Sample, find_folder, some

_ANNOTATIONS: Final = "annotations/instances_val2017.json"
_PICTURES: Final = "val2017"
_LAYOUT: Final = f"COCO ({_ANNOTATIONS}, {_PICTURES}/*.jpg)"
_SECTIONS: Final = ("images", "annotations", "categories")


@dataclass(frozen=True, slots=True)
class CocoPicture:
    """What the annotations say of a picture: its id and its size in pixels."""

    image_id: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class CocoData:
    """A data set with everything pycocotools needs.

    Attributes:
        annotations: the annotation file as it was read.
        category_ids: the file's number of each class of the model, by class id.
    """

    dataset: Dataset[CocoPicture]
    annotations: Mapping[str, Any]
    category_ids: tuple[int, ...]


def open_coco(root: Path, class_names: Sequence[str]) -> CocoData:
    """The pictures of `root/val2017`, those of a size together, so that they can share batches.

    Categories are mapped by their names in the file, whatever numbers they have there.

    Raises:
        LayoutError: no such files, or not what instance annotations consist of.
        ClassMismatchError: the categories are not the model's classes.
    """
    folder = find_folder(root, _PICTURES, _LAYOUT)
    path = root / _ANNOTATIONS
    annotations = _read(path)
    category_ids = _category_ids(path, annotations["categories"], class_names)
    samples = [_sample(path, folder, image) for image in annotations["images"]]
    samples.sort(key=lambda s: (s.truth.height, s.truth.width, s.truth.image_id))
    _check_references(path, samples, annotations["annotations"])
    content = json.dumps(annotations, sort_keys=True)
    dataset = Dataset.of("COCO layout, val2017", samples, [content])
    return CocoData(dataset, annotations, category_ids)


def _read(path: Path) -> dict[str, Any]:
    try:
        annotations = json.loads(path.read_bytes())
    except OSError as exc:
        raise LayoutError(
            f"cannot read {path}: {exc.strerror or exc}; expected the {_LAYOUT} layout"
        ) from exc
    except ValueError as exc:
        raise LayoutError(f"{path} is not JSON: {exc}") from exc
    if not isinstance(annotations, dict):
        raise LayoutError(f"{path} is a {type(annotations).__name__}, expected an object")
    for section in _SECTIONS:
        entries = annotations.get(section)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise LayoutError(f"{path} has no list {section!r}; expected {', '.join(_SECTIONS)}")
    if not annotations["images"]:
        raise LayoutError(f"{path} lists no images")
    return annotations


def _category_ids(
    path: Path, categories: Sequence[Mapping[str, Any]], class_names: Sequence[str]
) -> tuple[int, ...]:
    try:
        numbers = {str(entry["name"]): int(entry["id"]) for entry in categories}
    except (KeyError, TypeError, ValueError) as exc:
        raise LayoutError(f"{path}: a category without a name and a number: {exc!r}") from exc
    ids, unknown = class_ids_by_name(list(numbers), class_names)
    missing = sorted(set(range(len(class_names))) - set(ids.values()))
    if unknown or missing:
        parts = [f"{len(numbers)} categories in {path}, {len(class_names)} classes of the model"]
        if unknown:
            parts.append(f"no classes of the model: {some(unknown)}")
        if missing:
            parts.append(f"no categories: {some([class_names[i] for i in missing])}")
        raise ClassMismatchError("; ".join(parts))
    by_class = {class_id: numbers[name] for name, class_id in ids.items()}
    return tuple(by_class[i] for i in range(len(class_names)))


def _sample(path: Path, folder: Path, image: Mapping[str, Any]) -> Sample[CocoPicture]:
    try:
        name = str(image["file_name"])
        truth = CocoPicture(int(image["id"]), int(image["height"]), int(image["width"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise LayoutError(f"{path}: an image without id, file_name or size: {exc!r}") from exc
    return Sample(f"{_PICTURES}/{name}", folder / name, truth)


def _check_references(
    path: Path, samples: Sequence[Sample[CocoPicture]], annotations: Sequence[Mapping[str, Any]]
) -> None:
    known = {sample.truth.image_id for sample in samples}
    names = {sample.name for sample in samples}
    if len(known) != len(samples) or len(names) != len(samples):
        raise LayoutError(f"{path} lists an image twice")
    needed = {"image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "id"}
    for entry in annotations:
        if not needed <= entry.keys():
            missing = ", ".join(sorted(needed - entry.keys()))
            raise LayoutError(f"{path}: annotation {entry.get('id')!r} has no {missing}")
        if entry["image_id"] not in known:
            raise LayoutError(
                f"{path}: annotation {entry['id']!r} is of image {entry['image_id']!r}, which is "
                "not listed"
            )
