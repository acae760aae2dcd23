"""Small data sets in the standard layouts, written to disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_imagenet(root: Path, pictures: Mapping[str, NDArray[np.uint8]]) -> Path:
    """Pictures by their path below `val/`."""
    for name, pixels in pictures.items():
        save(root / "val" / name, pixels)
    return root


def write_coco(
    root: Path,
    pictures: Mapping[str, NDArray[np.uint8]],
    annotations: Sequence[Mapping[str, Any]],
    categories: Mapping[int, str],
) -> Path:
    """Pictures by name, ids from 1 on in that order; annotations get ids of their own."""
    for name, pixels in pictures.items():
        save(root / "val2017" / name, pixels)
    content = {
        "images": [
            {"id": i, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]}
            for i, (name, pixels) in enumerate(pictures.items(), start=1)
        ],
        "annotations": [{"id": i, **entry} for i, entry in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def box_annotation(
    image_id: int, category_id: int, x: float, y: float, w: float, h: float, *, crowd: bool = False
) -> dict[str, Any]:
    """A rectangle as both box and mask."""
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": int(crowd),
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }


def write_ade20k(
    root: Path, pictures: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]
) -> Path:
    """Pictures by name without ending, each with the numbers its annotation file is to have."""
    for name, (pixels, labels) in pictures.items():
        save(root / "images" / "validation" / f"{name}.jpg", pixels)
        save(root / "annotations" / "validation" / f"{name}.png", labels)
    return root
