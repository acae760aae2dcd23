"""Making the pack: reading the packages, licences, splits, repeatable files."""

import io
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import pack as packer
from demo.classes import class_names, clutter_emoji, real_photographs, sticker_classes
from demo.packing import sources as packages
from demo.packing.emoji import Design
from demo.packing.photographs import Photograph, gcompris_photographs
from demo.packing.sources import SourceError, Sources

README = """Copyright: Ann Author
License: Public Domain
Source: somewhere
 on two lines
Files: a.webp, b.webp

Copyright: Ben
License: CC-BY-SA-4.0
Files: c.webp missing.webp
"""


def webp(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def write_rcc(path: Path, files: dict[str, bytes]) -> None:
    """A Qt resource file, format version 1: /a/b paths, every other file compressed."""
    names, entries, data = bytearray(), [], bytearray()

    def add_name(text: str) -> int:
        offset = len(names)
        names.extend(struct.pack(">HI", len(text), 0) + text.encode("utf-16-be"))
        return offset

    tree: dict[str, object] = {}
    for name, content in files.items():
        *folders, leaf = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})  # type: ignore[assignment]
        place[leaf] = content
    # breadth first: the children of a folder lie next to one another
    queue: list[tuple[str, object]] = [("", tree)]
    position = 0
    while position < len(queue):
        name, node = queue[position]
        if isinstance(node, dict):
            entries.append((add_name(name), 2, len(node), len(queue)))
            queue.extend(node.items())
        else:
            assert isinstance(node, bytes)
            packed = position % 2 == 0
            body = struct.pack(">I", len(node)) + zlib.compress(node) if packed else node
            entries.append((add_name(name), int(packed), 0, len(data)))
            data.extend(struct.pack(">I", len(body)) + body)
        position += 1
    table = b""
    for name_offset, flags, count, place_ in entries:
        if flags == 2:
            table += struct.pack(">IHII", name_offset, flags, count, place_)
        else:
            table += struct.pack(">IHHHI", name_offset, flags, 0, 0, place_)
    start = 20
    header = b"qres" + struct.pack(
        ">4I", 1, start, start + len(table), start + len(table) + len(data)
    )
    path.write_bytes(header + table + bytes(data) + bytes(names))


@pytest.fixture(scope="module")
def gcompris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gcompris")
    prefix = "src/activities/explore_monuments/resource/"
    write_rcc(
        folder / "monuments.rcc",
        {
            f"{prefix}README": README.encode(),
            f"{prefix}a.webp": webp((200, 10, 10)),
            f"{prefix}b.webp": webp((10, 200, 10)),
            f"{prefix}c.webp": webp((10, 10, 200)),
            f"{prefix}unlisted.webp": webp((1, 1, 1)),
        },
    )
    return folder


def test_photographs_carry_what_the_readme_states(gcompris: Path) -> None:
    found = gcompris_photographs(gcompris)
    assert set(found) == {f"explore_monuments/resource/{name}.webp" for name in "abc"}
    first = found["explore_monuments/resource/a.webp"]
    assert first.data == webp((200, 10, 10))
    assert (first.author, first.licence) == ("Ann Author", "Public Domain")
    assert first.source == "somewhere on two lines"
    assert found["explore_monuments/resource/c.webp"].licence == "CC-BY-SA-4.0"


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("Public domain", True),
        ("CC0-1.0", True),
        ("CC-BY-4.0", False),
        ("CC-BY-SA-4.0", False),
        ("GPL-3.0", False),
        ("not stated", False),
    ],
)
def test_only_public_domain_and_cc0_are_unrestricted(licence: str, free: bool) -> None:
    assert Photograph(b"", licence, "", "").unrestricted is free


def test_another_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.rcc").write_bytes(b"zip!" + bytes(40))
    with pytest.raises(SourceError, match=r"broken.rcc starts with b'zip!'"):
        gcompris_photographs(tmp_path)


def drawn_designs(sources: Sources, codepoints: Sequence[str]) -> Iterator[Design]:
    rng = np.random.default_rng(0)
    for name, licence in (("fluent-3d", "MIT"), ("noto-v1", "Apache-2.0"), ("twemoji", "CC-BY")):
        pictures = {}
        for codepoint in codepoints:
            image = Image.new("RGBA", (300, 260))
            colour = (*rng.integers(0, 255, 3).tolist(), 255)
            image.paste(colour, (20, 30, 280, 200))
            pictures[codepoint] = image
        yield Design(name, licence, pictures, test_only=name == "twemoji")


@pytest.fixture(scope="module")
def built(gcompris: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    sources = Sources(debian={"gcompris-qt-data": gcompris}, npm={})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(packer, "designs", drawn_designs)
        packer.build(sources, folder / "pack")
        packer.build(sources, folder / "again")
    return folder / "pack"


def test_packing_twice_gives_the_same_files(built: Path) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    assert content(built) == content(built.with_name("again"))


def test_the_index_says_where_everything_comes_from(built: Path) -> None:
    index = json.loads((built / "index.json").read_text())
    assert [entry["name"] for entry in index["classes"]] == list(class_names())
    for entry in index["sprites"] + index["photographs"]:
        assert (built / entry["file"]).is_file()
        assert entry["licence"]
        assert entry["source"]
    # the CC-BY-SA photograph is left out
    assert [entry["licence"] for entry in index["photographs"]] == ["Public Domain"] * 2


def test_cut_outs_are_trimmed_and_limited(built: Path) -> None:
    index = json.loads((built / "index.json").read_text())
    with Image.open(built / index["sprites"][0]["file"]) as image:
        assert image.mode == "RGBA" or image.has_transparency_data or image.mode == "RGB"
        assert max(image.size) == 224
        assert min(image.size) == pytest.approx(224 * 170 / 260, abs=1)


def test_clutter_is_never_of_the_test_design(built: Path) -> None:
    index = json.loads((built / "index.json").read_text())
    clutter = [entry["design"] for entry in index["sprites"] if entry["class_id"] == -1]
    assert len(clutter) == len(clutter_emoji())
    assert set(clutter) == {"fluent-3d"}


def test_a_failing_client_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(SourceError, match="apt-get is not installed"):
        packages.fetch(tmp_path, with_stamps=False)


def test_the_class_table_is_consistent() -> None:
    names = class_names()
    assert len(names) == len(set(names)) == 52
    emoji = [code for entry in sticker_classes() for code in entry.emoji]
    assert len(emoji) == len(set(emoji))
    assert not set(emoji) & set(clutter_emoji())
    assert set(real_photographs().values()) <= set(names)
    assert not next(e for e in sticker_classes() if e.name == "road_sign").mirrors
