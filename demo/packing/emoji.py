"""Emoji designs: code point -> RGBA picture, for each design that the packages hold."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from demo.packing.sources import Sources
from demo.packing.svg import rasterise

_SVG_SIDE: Final = 224
# the font's only bitmap size
_NOTO_SIZE: Final = 109
# names of Noto 1 that are not the Unicode names
_NOTO_V1_NAMES: Final = {
    "1f54a": "dove",
    "1f411": "ewe",
    "1f42a": "camel",
    "1f42b": "two-hump-camel",
    "1f33d": "ear-of-corn",
    "1f699": "sport-utility-vehicle",
    "1f3c0": "basketball",
    "1f3be": "tennis",
    "1f6d1": "stop-sign",
    "26a0": "warning",
    "2702": "scissors",
}


@dataclass(frozen=True, slots=True)
class Design:
    """One hand's drawings of the emoji.

    Attributes:
        licence: SPDX name.
        pictures: code point -> RGBA picture; holds only what the design has.
        test_only: never trained on.
    """

    name: str
    licence: str
    pictures: Mapping[str, Image.Image]
    test_only: bool = False


def designs(sources: Sources, codepoints: Sequence[str]) -> Iterator[Design]:
    """Every design, with its pictures of the `codepoints`."""
    npm = sources.npm
    yield Design("fluent-3d", "MIT", _bitmaps(npm["fluent-3d"] / "assets", codepoints))
    yield Design("fluent-flat", "MIT", _drawings(npm["fluent-flat"] / "assets", codepoints))
    yield Design("fluent-modern", "MIT", _drawings(npm["fluent-modern"] / "assets", codepoints))
    yield Design("noto", "OFL-1.1", _noto(sources.debian["fonts-noto-color-emoji"], codepoints))
    yield Design("noto-v1", "Apache-2.0", _noto_v1(npm["noto-v1"], codepoints))
    yield Design("twemoji", "CC-BY-4.0", _drawings(npm["twemoji"], codepoints), test_only=True)


def _find(folder: Path, codepoint: str, suffix: str) -> Path | None:
    names = (f"{codepoint}{suffix}", f"{codepoint}-fe0f{suffix}")
    return next((folder / name for name in names if (folder / name).exists()), None)


def _bitmaps(folder: Path, codepoints: Sequence[str]) -> dict[str, Image.Image]:
    pictures = {}
    for codepoint in codepoints:
        path = _find(folder, codepoint, ".webp")
        if path is not None:
            with Image.open(path) as image:
                pictures[codepoint] = image.convert("RGBA")
    return pictures


def _drawings(folder: Path, codepoints: Sequence[str]) -> dict[str, Image.Image]:
    found = {code: path for code in codepoints if (path := _find(folder, code, ".svg"))}
    texts = [path.read_text(encoding="utf-8") for path in found.values()]
    return dict(zip(found, rasterise(texts, _SVG_SIDE), strict=True))


def _noto(folder: Path, codepoints: Sequence[str]) -> dict[str, Image.Image]:
    path = next(folder.rglob("NotoColorEmoji.ttf"))
    font = ImageFont.truetype(str(path), _NOTO_SIZE)
    pictures = {}
    for codepoint in codepoints:
        image = Image.new("RGBA", (160, 160))
        text = chr(int(codepoint, 16))
        ImageDraw.Draw(image).text((10, 20), text, font=font, embedded_color=True)
        pictures[codepoint] = image
    return pictures


def _noto_v1(folder: Path, codepoints: Sequence[str]) -> dict[str, Image.Image]:
    table = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    width, height = table["width"], table["height"]
    found = {}
    for codepoint in codepoints:
        plain = unicodedata.name(chr(int(codepoint, 16))).lower().replace(" ", "-")
        name = _NOTO_V1_NAMES.get(codepoint, plain)
        if name in table["icons"]:
            found[codepoint] = (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
                f"{table['icons'][name]['body']}</svg>"
            )
    return dict(zip(found, rasterise(list(found.values()), _SVG_SIDE), strict=True))
