"""Which pictures were meant, and what to call the drawings of them."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model.images import PICTURE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Picture:
    """A file to read.

    Attributes:
        relative: its path below the folder that was given, or its name.
    """

    path: Path
    relative: Path

    @property
    def name(self) -> str:
        """The path as text; bytes that are no UTF-8, which file names may hold, are escaped."""
        return os.fsencode(self.path).decode("utf-8", errors="backslashreplace")


def find_pictures(inputs: Iterable[Path]) -> Iterator[Picture]:
    """Files as they were given, whatever their names; of folders all pictures below, sorted.

    A path that does not exist comes out as it is, to be reported when it is read.
    """
    for given in inputs:
        if not given.is_dir():
            yield Picture(given, Path(given.name))
            continue
        for path in sorted(given.rglob("*")):
            if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
                yield Picture(path, path.relative_to(given))


class OverlayNames:
    """Paths of drawings below one folder, each given out once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[str] = set()

    def path_for(self, picture: Picture) -> Path:
        """`<folder>/<relative>.png`; a number is added when two pictures differ in ending only."""
        plain = picture.relative.with_suffix(".png")
        candidate, number = plain, 1
        # compared in small letters: some file systems do not tell the difference
        while str(candidate).lower() in self._taken:
            number += 1
            candidate = plain.with_stem(f"{plain.stem}-{number}")
        self._taken.add(str(candidate).lower())
        return self._folder / candidate
