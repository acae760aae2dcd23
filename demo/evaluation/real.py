"""Ordinary photographs with a known class: how far the classifier is from understanding them."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def real_test_photographs(pack: Path) -> list[tuple[NDArray[np.uint8], int]]:
    """(H, W, 3) uint8 pictures of the pack that no split composes from, with their class ids."""
    index = json.loads((pack / "index.json").read_text(encoding="utf-8"))
    pictures = []
    for entry in index["real"]:
        with Image.open(pack / entry["file"]) as image:
            pictures.append((np.array(image.convert("RGB")), int(entry["class_id"])))
    return pictures
