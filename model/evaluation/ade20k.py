"""Segmentation: `images/validation/*.jpg`, `annotations/validation/*.png`, the ADE20K layout."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model.evaluation.errors import ClassMismatchError, LayoutError, TruthError
from model.evaluation.samples import Dataset, Sample, contents, find_folder, find_pictures, some
from model.images import ImageDecodeError, ImageTooLargeError, UnsupportedImageError, read_header

IGNORED: Final = -1
# in the files: "other", and what the published pipeline sets aside with it
_UNLABELLED: Final = 0
_RESERVED: Final = 255
_PICTURES: Final = "images/validation"
_ANNOTATIONS: Final = "annotations/validation"
_LAYOUT: Final = f"ADE20K ({_PICTURES}/*.jpg, {_ANNOTATIONS}/*.png)"


def open_ade20k(root: Path) -> Dataset[Path]:
    """The pictures of `root/images/validation`, each with the path of its annotation.

    Those of a size come together, so that they can share batches.

    Raises:
        LayoutError: no such folders, no pictures, or pictures without annotations.
    """
    folder = find_folder(root, _PICTURES, _LAYOUT)
    annotations = find_folder(root, _ANNOTATIONS, _LAYOUT)
    pictures = find_pictures(folder)
    if not pictures:
        raise LayoutError(f"{folder} has no pictures, found {contents(folder)}")
    pairs = [(path, annotations / f"{path.stem}.png") for path in pictures]
    lonely = [path.name for path, annotation in pairs if not annotation.is_file()]
    if lonely:
        raise LayoutError(
            f"{len(lonely)} of {len(pictures)} pictures have no annotation of the same name in "
            f"{annotations}: {some(lonely)}"
        )
    pairs.sort(key=lambda pair: (_size(pair[0]), pair[0].name))
    samples = [Sample(f"{_PICTURES}/{path.name}", path, truth) for path, truth in pairs]
    sizes = (f"{sample.truth.name} {sample.truth.stat().st_size}" for sample in samples)
    return Dataset.of("ADE20K layout, validation", samples, sizes)


def read_annotation(path: Path, num_classes: int) -> NDArray[np.int64]:
    """Class ids of every pixel.

    The files count classes from 1; 0 and 255 are set aside, as by the published pipeline
    (`reduce_zero_label`).

    Returns:
        (H, W) int64, `IGNORED` where nothing is said.

    Raises:
        TruthError: no readable 8-bit single-channel PNG.
        ClassMismatchError: a class that the model does not have.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in ("L", "P"):
                raise TruthError(
                    f"{path.name} has mode {image.mode}, expected one 8-bit number a pixel"
                )
            labels = np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError, UnidentifiedImageError) as exc:
        raise TruthError(f"the annotation {path.name} is not a readable PNG: {exc}") from exc
    labels[(labels == _UNLABELLED) | (labels == _RESERVED)] = IGNORED + 1
    labels -= 1
    highest = int(labels.max(initial=IGNORED))
    if highest >= num_classes:
        raise ClassMismatchError(
            f"{path.name} has class number {highest + 1}, the model has {num_classes} classes"
        )
    return labels


def _size(path: Path) -> tuple[int, int]:
    """Height and width from the header; an unreadable picture is reported when it is read."""
    try:
        header = read_header(path.read_bytes())
    except (OSError, ImageDecodeError, ImageTooLargeError, UnsupportedImageError):
        return 0, 0
    return header.height, header.width
