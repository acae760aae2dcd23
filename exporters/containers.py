"""The two file formats of `torch.save`: a zip archive, and before torch 1.6 a stream of pickles."""

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import IO, Any, Final, Protocol

from exporters.errors import OfficialCheckpointError
from exporters.inert_objects import StorageRef, shown
from exporters.inert_pickle import BoundedReader, read_inert_pickle

MAX_PICKLE_BYTES: Final = 512 << 20

_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001
_COUNT: Final = struct.Struct("<q")


class Container(Protocol):
    """An open checkpoint file."""

    content: Any
    byte_order: str

    def read_storage(self, ref: StorageRef) -> bytearray:
        """All bytes of a storage, in the byte order of the file."""
        ...


def open_container(file: IO[bytes]) -> Container:
    """Read everything but the storages.

    Raises:
        OfficialCheckpointError: neither format, damaged, or a pickle that is not data.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        return ZipContainer(file, size)
    if start[:1] == b"\x80":
        return LegacyContainer(file, size)
    raise OfficialCheckpointError(
        f"starts with {start!r}, expected a checkpoint written by torch.save (zip or pickle)"
    )


class ZipContainer:
    """`<name>/data.pkl`, `<name>/data/<key>` and `<name>/byteorder` in an uncompressed zip."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as exc:
            raise OfficialCheckpointError(f"damaged zip archive: {exc}") from exc
        self._entries = _checked_entries(self._zip, size)
        pickles = [
            name for name in self._entries if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(pickles) != 1:
            raise OfficialCheckpointError(
                f"a zip archive with {len(pickles)} entries <name>/data.pkl, expected one"
            )
        self._root = pickles[0].split("/")[0]
        if f"{self._root}/constants.pkl" in self._entries:
            raise OfficialCheckpointError(
                "a TorchScript archive, expected a checkpoint with a state dict"
            )
        if self._entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise OfficialCheckpointError(f"data.pkl is larger than {MAX_PICKLE_BYTES} bytes")
        self.byte_order = self._read_byte_order()
        data = self._read(pickles[0])
        self.content = read_inert_pickle(BoundedReader(io.BytesIO(data), len(data))).content

    def read_storage(self, ref: StorageRef) -> bytearray:
        name = f"{self._root}/data/{ref.key}"
        entry = self._entries.get(name)
        if entry is None:
            raise OfficialCheckpointError(f"storage {shown(ref.key)} is missing from the archive")
        if entry.file_size != ref.num_bytes:
            raise OfficialCheckpointError(
                f"storage {shown(ref.key)} has {entry.file_size} bytes, expected {ref.num_bytes}"
            )
        return bytearray(self._read(name))

    def _read_byte_order(self) -> str:
        # files written before torch 2.1 do not say it; they come from little-endian machines
        name = f"{self._root}/byteorder"
        if name not in self._entries:
            return "little"
        if self._entries[name].file_size > 16:
            raise OfficialCheckpointError("the entry byteorder is longer than any byte order")
        found = self._read(name).decode("ascii", errors="replace")
        if found not in ("little", "big"):
            raise OfficialCheckpointError(f"byte order {shown(found)}, expected little or big")
        return found

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._entries[name])
        except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, OSError) as exc:
            raise OfficialCheckpointError(f"damaged entry {shown(name)}: {exc}") from exc


def _checked_entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Entries by name, none of which can be larger than the file itself."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename
        if name in entries:
            raise OfficialCheckpointError(f"the zip archive has two entries {shown(name)}")
        # torch stores without compression; a compressed entry may be a bomb
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise OfficialCheckpointError(
                f"entry {shown(name)} is compressed, expected a stored one as torch.save writes"
            )
        if entry.header_offset + entry.file_size > size:
            raise OfficialCheckpointError(f"entry {shown(name)} reaches beyond the end of the file")
        entries[name] = entry
    return entries


class LegacyContainer:
    """Magic number, protocol, system facts, content, storage keys: five pickles; then storages.

    Each storage is its number of elements (int64) followed by the elements; both little-endian on
    every machine.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self.byte_order = "little"
        reader = BoundedReader(file, size)
        for expected in (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
            if read_inert_pickle(reader).content != expected:
                raise OfficialCheckpointError(
                    "a pickle without the marks of torch.save, expected a checkpoint"
                )
        read_inert_pickle(reader)
        pickled = read_inert_pickle(reader)
        self.content = pickled.content
        keys = read_inert_pickle(reader).content
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise OfficialCheckpointError("the list of storages is no list of names")
        if len(set(keys)) != len(keys):
            raise OfficialCheckpointError("the list of storages names one twice")
        self._offsets = self._find_storages(keys, pickled.storages)

    def _find_storages(self, keys: list[str], refs: Mapping[str, StorageRef]) -> dict[str, int]:
        """Offset of the elements of every storage, in bytes from the start of the file."""
        offsets: dict[str, int] = {}
        position = self._file.tell()
        for key in keys:
            ref = refs.get(key)
            if ref is None:
                raise OfficialCheckpointError(f"no tensor uses storage {shown(key)}")
            self._file.seek(position)
            head = self._file.read(_COUNT.size)
            if len(head) < _COUNT.size:
                raise OfficialCheckpointError(f"the file ends before storage {shown(key)}")
            (count,) = _COUNT.unpack(head)
            if count != ref.numel:
                raise OfficialCheckpointError(
                    f"storage {shown(key)} has {count} elements, expected {ref.numel}"
                )
            offsets[key] = position + _COUNT.size
            position = offsets[key] + ref.num_bytes
            if position > self._size:
                raise OfficialCheckpointError(f"the file ends inside storage {shown(key)}")
        return offsets

    def read_storage(self, ref: StorageRef) -> bytearray:
        if ref.key not in self._offsets:
            raise OfficialCheckpointError(f"storage {shown(ref.key)} is missing from the file")
        self._file.seek(self._offsets[ref.key])
        return bytearray(self._file.read(ref.num_bytes))
