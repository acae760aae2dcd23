"""The classes of the demo models, read from `classes.toml`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

_FILE: Final = Path(__file__).with_name("classes.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class StickerClass:
    """One kind of sticker; its id is its position in the file.

    Attributes:
        group: animal, food, plant, vehicle or thing.
        emoji: code points in hexadecimal.
        stamps: paths of photographic cut-outs below the stamps' folder, without suffix.
        rotates: any angle looks natural.
        mirrors: may be flipped; signs may not.
    """

    name: str
    group: str
    emoji: tuple[str, ...]
    stamps: tuple[str, ...]
    rotates: bool = False
    mirrors: bool = True


def sticker_classes() -> tuple[StickerClass, ...]:
    """All classes, by id."""
    return tuple(
        StickerClass(
            name=entry["name"],
            group=entry["group"],
            emoji=tuple(entry["emoji"]),
            stamps=tuple(entry["stamps"]),
            rotates=entry.get("rotates", False),
            mirrors=entry.get("mirrors", True),
        )
        for entry in _table()["class"]
    )


def class_names() -> tuple[str, ...]:
    """Names of the classes, by id."""
    return tuple(entry.name for entry in sticker_classes())


def clutter_emoji() -> tuple[str, ...]:
    """Code points of things that are pasted but never labelled."""
    return tuple(_table()["clutter"])


def real_photographs() -> Mapping[str, str]:
    """Path of a photograph below GCompris' activities, without suffix -> class name."""
    return {
        folder + stem: name
        for folder, files in _table()["real"].items()
        for stem, name in files.items()
    }


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
