"""A data set: pictures, each with what is known about it."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from model.evaluation.errors import LayoutError
from model.images import PICTURE_SUFFIXES

TruthT = TypeVar("TruthT")
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Sample(Generic[TruthT]):
    """One picture.

    Attributes:
        name: its path below the data set's folder; unlike any other's.
        truth: what a `Measure` compares answers with.
    """

    name: str
    path: Path
    truth: TruthT


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Generic[TruthT]):
    """Pictures in the order in which they are answered.

    Attributes:
        title: layout and part, for people.
        fingerprint: SHA-256 of all names, file sizes and truths, also of those that are left out.
        total: pictures of the whole data set.
    """

    title: str
    samples: tuple[Sample[TruthT], ...]
    fingerprint: str
    total: int

    @classmethod
    def of(
        cls, title: str, samples: Sequence[Sample[TruthT]], truths: Iterable[str]
    ) -> "Dataset[TruthT]":
        """A whole data set.

        Args:
            truths: what is known about the pictures, as text, for the fingerprint.
        """
        digest = hashlib.sha256()
        for sample in samples:
            size = sample.path.stat().st_size if sample.path.exists() else -1
            digest.update(f"{sample.name}\0{size}\n".encode(errors="surrogateescape"))
        for truth in truths:
            digest.update(truth.encode(errors="surrogateescape") + b"\n")
        return cls(
            title=title,
            samples=tuple(samples),
            fingerprint=digest.hexdigest(),
            total=len(samples),
        )

    def limited(self, count: int | None) -> "Dataset[TruthT]":
        """At most `count` pictures, evenly spread: folders come class by class."""
        if count is None or count >= len(self.samples):
            return self
        step = len(self.samples) / count
        return replace(self, samples=tuple(self.samples[int(i * step)] for i in range(count)))


def find_folder(root: Path, relative: str, layout: str) -> Path:
    """The folder `relative` below `root`.

    Raises:
        LayoutError: it is not there; the message tells the layout and what is there.
    """
    folder = root / relative
    if folder.is_dir():
        return folder
    if not root.is_dir():
        raise LayoutError(f"{root} is not a folder; expected the {layout} layout in it")
    raise LayoutError(
        f"{root} has no folder {relative}/; expected the {layout} layout, found {contents(root)}"
    )


def find_pictures(folder: Path) -> list[Path]:
    """Pictures directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)


def contents(folder: Path) -> str:
    """The first names in a folder, for messages."""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    return some(names) if names else "nothing"


def some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    shown = ", ".join(names[:_LISTED])
    more = len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def plain_name(name: str) -> str:
    """A class name without the differences between folders, files and people."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())
