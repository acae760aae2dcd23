"""What the composing processes produce: labelled pictures as fixed-size arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo.compose import Composer
from demo.training.feed import Field, Sample

MAX_OBJECTS = 8


@dataclass(frozen=True, slots=True)
class Singles:
    """One labelled object per picture: image (S, S, 3) uint8, label () int64."""

    pack: Path
    size: int
    seed: int
    split: str = "train"

    @property
    def fields(self) -> dict[str, Field]:
        return {"image": Field((self.size, self.size, 3), "uint8"), "label": Field((), "int64")}

    def __call__(self, worker: int) -> Iterator[Sample]:
        composer = Composer(self.pack, self.size, self.split, seed=self.seed + worker)
        while True:
            image, label = composer.single()
            yield {"image": image, "label": np.asarray(label, np.int64)}


@dataclass(frozen=True, slots=True)
class Scenes:
    """Several objects per picture.

    image (S, S, 3) uint8; semantic (S, S) uint8, 0 background, k + 1 class k; instances (S, S)
    uint8, 0 none, i + 1 object i; boxes (8, 4) float32 x1 y1 x2 y2; labels (8,) int64, -1 unused.
    """

    pack: Path
    size: int
    seed: int
    split: str = "train"

    @property
    def fields(self) -> dict[str, Field]:
        side = self.size
        return {
            "image": Field((side, side, 3), "uint8"),
            "semantic": Field((side, side), "uint8"),
            "instances": Field((side, side), "uint8"),
            "boxes": Field((MAX_OBJECTS, 4), "float32"),
            "labels": Field((MAX_OBJECTS,), "int64"),
        }

    def __call__(self, worker: int) -> Iterator[Sample]:
        composer = Composer(self.pack, self.size, self.split, seed=self.seed + worker)
        while True:
            scene = composer.scene()
            count = min(len(scene["labels"]), MAX_OBJECTS)
            boxes = np.zeros((MAX_OBJECTS, 4), np.float32)
            labels = np.full(MAX_OBJECTS, -1, np.int64)
            boxes[:count] = scene["boxes"][:count]
            labels[:count] = scene["labels"][:count]
            instances = np.zeros((self.size, self.size), np.uint8)
            for i, mask in enumerate(scene["masks"][:count]):
                instances[mask] = i + 1
            yield {
                "image": scene["image"],
                "semantic": scene["semantic"],
                "instances": instances,
                "boxes": boxes,
                "labels": labels,
            }
