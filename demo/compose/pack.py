"""The pack as one split of it sees it: which cut-outs and which photographs may be used."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

CLUTTER: Final = -1
TEST_DESIGN: Final = "twemoji"


class Split(StrEnum):
    """What a picture is made of.

    `train`: training designs on training photographs. `heldout`: training designs on photographs
    that training never sees. `unseen`: a design that training never sees, on the same held-out
    photographs.
    """

    TRAIN = "train"
    HELDOUT = "heldout"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Sprite:
    """One cut-out.

    Attributes:
        image: RGBA.
        class_id: `CLUTTER` for what is never labelled.
        source: design and code point, or package and path.
    """

    image: Image.Image
    class_id: int
    source: str
    rotates: bool
    mirrors: bool


@dataclass(frozen=True, slots=True)
class Pack:
    """Sprites and photographs of one split.

    Attributes:
        class_names: by class id.
        sprites: class id -> its sprites, grouped by design.
        photographs: RGB backgrounds.
        photograph_sources: where each comes from.
    """

    class_names: tuple[str, ...]
    sprites: Mapping[int, Sequence[Sequence[Sprite]]]
    photographs: Sequence[Image.Image]
    photograph_sources: Sequence[str]

    @classmethod
    def open(cls, folder: Path, split: Split) -> "Pack":
        """Read the folder's index and the pictures of the split.

        Raises:
            ValueError: the folder has no photograph or no labelled sprite for this split.
        """
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        grouped: dict[int, dict[str, list[Sprite]]] = {}
        for entry in index["sprites"]:
            if _belongs(entry, split):
                designs = grouped.setdefault(entry["class_id"], {})
                sprite = _sprite(folder, entry, index["classes"])
                designs.setdefault(entry["design"], []).append(sprite)
        wanted = "train" if split is Split.TRAIN else "heldout"
        photographs = [entry for entry in index["photographs"] if entry["split"] == wanted]
        if not photographs or not any(class_id != CLUTTER for class_id in grouped):
            raise ValueError(f"{folder} has no photographs or no cut-outs for the split {split}")
        return cls(
            class_names=tuple(entry["name"] for entry in index["classes"]),
            sprites={key: list(designs.values()) for key, designs in grouped.items()},
            photographs=[_opened(folder / entry["file"], "RGB") for entry in photographs],
            photograph_sources=[str(entry["source"]) for entry in photographs],
        )

    @property
    def class_ids(self) -> list[int]:
        """Classes that have sprites in this split."""
        return sorted(class_id for class_id in self.sprites if class_id != CLUTTER)

    def pick_sprite(self, rng: np.random.Generator, class_id: int) -> Sprite:
        """A sprite of the class: every design is equally likely, then every sprite of it."""
        designs = self.sprites[class_id]
        sprites = designs[int(rng.integers(len(designs)))]
        return sprites[int(rng.integers(len(sprites)))]

    def pick_photograph(self, rng: np.random.Generator) -> Image.Image:
        """Any photograph of the split."""
        return self.photographs[int(rng.integers(len(self.photographs)))]


def _belongs(entry: Mapping[str, Any], split: Split) -> bool:
    if entry["class_id"] == CLUTTER:
        return True
    return bool(entry["design"] == TEST_DESIGN) == (split is Split.UNSEEN)


def _sprite(pack: Path, entry: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> Sprite:
    class_id = int(entry["class_id"])
    labelled = class_id != CLUTTER
    return Sprite(
        image=_opened(pack / entry["file"], "RGBA"),
        class_id=class_id,
        source=str(entry["source"]),
        rotates=not labelled or bool(classes[class_id]["rotates"]),
        mirrors=not labelled or bool(classes[class_id]["mirrors"]),
    )


def _opened(path: Path, mode: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert(mode)
