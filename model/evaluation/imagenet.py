"""Classification: `val/<synset or class name>/*.JPEG`, or `val/*.JPEG` with a file of labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from model.evaluation.errors import ClassMismatchError, LayoutError
from model.evaluation.labels import class_ids_by_name, is_synset, read_labels, synset_ids
from model.evaluation.samples import Dataset, Sample, contents, find_folder, find_pictures, some

_LAYOUT: Final = "ImageNet (val/<class>/*.JPEG)"
_TITLE: Final = "ImageNet layout, val"


def open_imagenet(
    root: Path,
    class_names: Sequence[str],
    *,
    labels: Path | None = None,
    synsets: Path | None = None,
) -> Dataset[int]:
    """The pictures of `root/val` with their class ids.

    Folders are mapped by class name; folders named by the 1000 synsets of ImageNet-1K in sorted
    order, which is the published order of the classes.

    Args:
        labels: pictures lie in `val/` itself, and this file has their labels; see `labels.py`.
        synsets: `map_clsloc.txt` of the ILSVRC development kit, for labels that are its numbers.

    Raises:
        LayoutError: no such folders, no pictures, or an unusable file of labels.
        ClassMismatchError: folders or labels that are no classes of the model.
    """
    val = find_folder(root, "val", _LAYOUT)
    samples = (
        _in_folders(val, class_names)
        if labels is None
        else _flat(val, read_labels(labels, find_pictures(val), class_names, synsets))
    )
    return Dataset.of(_TITLE, samples, (str(sample.truth) for sample in samples))


def _in_folders(val: Path, class_names: Sequence[str]) -> list[Sample[int]]:
    folders = sorted(path for path in val.iterdir() if path.is_dir() and path.name[0] != ".")
    if not folders:
        raise LayoutError(
            f"{val} has no folders; expected one for each class, found {contents(val)}. Pictures "
            "that lie there side by side need a file of labels"
        )
    class_ids = _folder_classes([folder.name for folder in folders], class_names)
    samples = [
        Sample(f"val/{folder.name}/{path.name}", path, class_ids[folder.name])
        for folder in folders
        for path in find_pictures(folder)
    ]
    if not samples:
        raise LayoutError(f"the {len(folders)} folders of {val} hold no pictures")
    return samples


def _folder_classes(folders: Sequence[str], class_names: Sequence[str]) -> Mapping[str, int]:
    if all(is_synset(name) for name in folders) and not set(folders) <= set(class_names):
        return synset_ids(folders, len(class_names))
    ids, unknown = class_ids_by_name(folders, class_names)
    if unknown:
        raise ClassMismatchError(
            f"{len(unknown)} of {len(folders)} folders are named after no class of the model, "
            f"which has {len(class_names)}: {some(unknown)}"
        )
    return ids


def _flat(val: Path, labels: Mapping[str, int]) -> list[Sample[int]]:
    return [Sample(f"val/{name}", val / name, label) for name, label in sorted(labels.items())]
