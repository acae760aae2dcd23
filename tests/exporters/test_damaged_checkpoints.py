"""Zip archives that torch.save does not write, foreign files, truncation and random damage."""

import io
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from exporters.official import OfficialCheckpointError
from tests.exporters.refusal import read_all, refused


def rewritten(tmp_path: Path, change: Callable[[zipfile.ZipFile, str, bytes], None]) -> Path:
    """A genuine zip checkpoint, each entry written by `change`."""
    source, target = tmp_path / "genuine.pth", tmp_path / "changed.pth"
    torch.save({"model": {"a": torch.zeros(1000)}}, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            change(new, name, old.read(name))
    return target


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    def compress(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        archive.writestr(name, content, compress_type=zipfile.ZIP_DEFLATED)

    assert "is compressed, expected a stored one" in refused(rewritten(tmp_path, compress))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    def write_twice(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        archive.writestr(name, content)
        archive.writestr(name, content)

    assert "has two entries" in refused(rewritten(tmp_path, write_twice))


def test_an_unknown_byte_order_is_refused(tmp_path: Path) -> None:
    def middle(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        archive.writestr(name, b"middle" if name.endswith("byteorder") else content)

    assert "byte order middle, expected little or big" in refused(rewritten(tmp_path, middle))


def test_torchscript_archives_and_foreign_files_are_named(tmp_path: Path) -> None:
    def as_script(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        archive.writestr(name, content)
        if name.endswith("/data.pkl"):
            archive.writestr(name.replace("data.pkl", "constants.pkl"), b"")

    assert "a TorchScript archive" in refused(rewritten(tmp_path, as_script))
    path = tmp_path / "plain.pth"
    path.write_bytes(b"")
    assert "starts with b''" in refused(path)
    path.write_bytes(pickle.dumps({"model": {}}, protocol=2))
    assert "without the marks of torch.save" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"hello")
    assert "0 entries <name>/data.pkl, expected one" in refused(path)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_truncated_and_damaged_files_are_refused_or_read(tmp_path: Path, is_zip: bool) -> None:
    buffer = io.BytesIO()
    state = {"a": torch.arange(40.0), "b": torch.ones(3, dtype=torch.int64)}
    torch.save({"model": state}, buffer, _use_new_zipfile_serialization=is_zip)
    whole = buffer.getvalue()
    path = tmp_path / "damaged.pth"
    for size in range(0, len(whole), 17):
        path.write_bytes(whole[:size])
        refused(path)
    chance = random.Random(5)  # noqa: S311 - repeatable damage
    messages = []
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            read_all(path)
        except OfficialCheckpointError as exc:
            messages.append(str(exc))
    assert len(messages) > 40
    assert all("\n" not in message for message in messages)
