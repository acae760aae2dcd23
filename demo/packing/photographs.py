"""Photographs of GCompris, each with the licence, author and source its README states."""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.packing.sources import SourceError

_FIELD: Final = re.compile(r"\s*(Copyright|License|Source|Comments?|Files):\s*(.*)$")
_DIRECTORY: Final = 2
_COMPRESSED: Final = 1


@dataclass(frozen=True, slots=True)
class Photograph:
    """One encoded picture and where it comes from."""

    data: bytes
    licence: str
    author: str
    source: str

    @property
    def unrestricted(self) -> bool:
        """Public domain or CC0: may be used and passed on without conditions."""
        return self.licence.lower().startswith(("public domain", "cc0"))


def gcompris_photographs(folder: Path) -> dict[str, Photograph]:
    """Pictures with a stated licence, by path below `src/activities`.

    Raises:
        SourceError: a resource file has another format.
    """
    files = {}
    for path in sorted(folder.rglob("*.rcc")):
        for name, data in _resources(path):
            files[name.split("src/activities/", 1)[-1]] = data
    found = {}
    for name, data in files.items():
        if not name.endswith("/README"):
            continue
        for record in _records(data.decode("utf-8", "replace")):
            for file in record.get("Files", "").replace(",", " ").split():
                path_name = name.removesuffix("README") + file
                if file.endswith(".webp") and path_name in files:
                    found[path_name] = Photograph(
                        data=files[path_name],
                        licence=record.get("License", "not stated"),
                        author=record.get("Copyright", "not stated"),
                        source=record.get("Source", ""),
                    )
    return found


def _records(text: str) -> Iterator[dict[str, str]]:
    """Paragraphs of `Field: value` lines, values may go on in the next lines."""
    for paragraph in re.split(r"\n\s*\n", text):
        record: dict[str, str] = {}
        current = None
        for line in paragraph.splitlines():
            match = _FIELD.match(line)
            if match:
                current = match.group(1)
                record[current] = f"{record.get(current, '')} {match.group(2)}".strip()
            elif current:
                record[current] = f"{record[current]} {line.strip()}".strip()
        yield record


def _resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """Files inside a Qt resource file: (path, content)."""
    blob = path.read_bytes()
    if blob[:4] != b"qres":
        raise SourceError(f"{path.name} starts with {blob[:4]!r}, expected b'qres'")
    version, tree, data, names = struct.unpack(">4I", blob[4:20])
    entry_size = 14 if version == 1 else 22

    def name_at(offset: int) -> str:
        start = names + offset
        (length,) = struct.unpack(">H", blob[start : start + 2])
        return blob[start + 6 : start + 6 + 2 * length].decode("utf-16-be")

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        start = tree + index * entry_size
        name_offset, flags = struct.unpack(">IH", blob[start : start + 6])
        if flags & _DIRECTORY:
            count, first = struct.unpack(">II", blob[start + 6 : start + 14])
            inner = f"{prefix}{name_at(name_offset)}/" if index else prefix
            for child in range(first, first + count):
                yield from walk(child, inner)
            return
        (offset,) = struct.unpack(">I", blob[start + 10 : start + 14])
        (size,) = struct.unpack(">I", blob[data + offset : data + offset + 4])
        content = blob[data + offset + 4 : data + offset + 4 + size]
        # a compressed entry starts with its plain length
        plain = zlib.decompress(content[4:]) if flags & _COMPRESSED else content
        yield prefix + name_at(name_offset), plain

    yield from walk(0, "")
