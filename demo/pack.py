"""Make the data pack: cut-outs, background photographs and an index with every licence.

    python -m demo.pack --out pack

Fetches packages by name with apt-get and npm; nothing is installed. By default only material that
is MIT, OFL, Apache, public domain or CC0 gets into training; `--no-free-only` adds the photographic
Tux Paint stamps (GPL-2). The pictures of the test splits never enter training.
"""

import argparse
import io
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from demo.classes import class_names, clutter_emoji, real_photographs, sticker_classes
from demo.packing.emoji import designs
from demo.packing.photographs import Photograph, gcompris_photographs
from demo.packing.sources import STAMPS_DEBIAN, Sources, fetch

CLUTTER: Final = -1
_CLUTTER_DESIGNS: Final = frozenset({"fluent-3d", "fluent-flat", "noto"})
_SPRITE_SIDE: Final = 224
_BACKGROUND_SIDE: Final = 640
_REAL_SIDE: Final = 512
_MIN_PIXELS: Final = 60
_BACKGROUNDS: Final = re.compile(
    r"explore_monuments/|categorization/resource/images/(monuments|renewable)/|clickgame/resource/sea"
)
# every sixth photograph is never seen in training
_HELDOUT_EVERY: Final = 6


@dataclass
class Index:
    """What `index.json` will hold, while it grows."""

    root: Path
    sprites: list[dict[str, Any]] = field(default_factory=list)
    photographs: list[dict[str, Any]] = field(default_factory=list)
    real: list[dict[str, Any]] = field(default_factory=list)

    def add_sprite(
        self, image: Image.Image, class_id: int, design: str, licence: str, source: str
    ) -> None:
        trimmed = _trim(image)
        if trimmed is None:
            return
        file = f"sprites/{len(self.sprites):04d}.webp"
        trimmed.save(self.root / file, quality=90, method=4)
        self.sprites.append(
            {
                "file": file,
                "class_id": class_id,
                "design": design,
                "licence": licence,
                "source": source,
            }
        )

    def add_photograph(self, photograph: Photograph, source: str) -> None:
        number = len(self.photographs)
        file = f"photographs/{number:03d}.jpg"
        _opened(photograph.data, _BACKGROUND_SIDE).save(self.root / file, quality=88)
        heldout = number % _HELDOUT_EVERY == _HELDOUT_EVERY - 1
        self.photographs.append(
            {
                "file": file,
                "split": "heldout" if heldout else "train",
                "licence": photograph.licence,
                "author": photograph.author,
                "source": f"{source} {photograph.source}".strip(),
            }
        )

    def add_real(self, photograph: Photograph, path: str, class_id: int) -> None:
        file = f"real/{path.replace('/', '_')}.jpg"
        _opened(photograph.data, _REAL_SIDE).save(self.root / file, quality=90)
        self.real.append(
            {
                "file": file,
                "class_id": class_id,
                "licence": photograph.licence,
                "author": photograph.author,
                "source": photograph.source,
            }
        )

    def save(self) -> None:
        table = {
            "classes": [
                {"name": entry.name, "rotates": entry.rotates, "mirrors": entry.mirrors}
                for entry in sticker_classes()
            ],
            "sprites": self.sprites,
            "photographs": self.photographs,
            "real": self.real,
        }
        text = json.dumps(table, indent=0, ensure_ascii=False)
        (self.root / "index.json").write_text(text + "\n", encoding="utf-8")


def build(sources: Sources, out: Path) -> Index:
    """Write the pack to `out`, replacing what is there; the same sources give the same bytes."""
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("sprites", "photographs", "real"):
        (out / folder).mkdir(parents=True)
    index = Index(out)
    photographs = gcompris_photographs(sources.debian["gcompris-qt-data"])
    _add_emoji(index, sources)
    _add_cutouts(index, sources, photographs)
    for path, photograph in sorted(photographs.items()):
        if _BACKGROUNDS.match(path) and photograph.unrestricted:
            index.add_photograph(photograph, f"gcompris:{path}")
    names = class_names()
    for path, name in real_photographs().items():
        if f"{path}.webp" in photographs:
            index.add_real(photographs[f"{path}.webp"], path, names.index(name))
    index.save()
    return index


def _add_emoji(index: Index, sources: Sources) -> None:
    classes = sticker_classes()
    codepoints = [code for entry in classes for code in entry.emoji] + list(clutter_emoji())
    for design in designs(sources, codepoints):
        for class_id, entry in enumerate(classes):
            for code in entry.emoji:
                if code in design.pictures:
                    source = f"{design.name}:{code}"
                    picture = design.pictures[code]
                    index.add_sprite(picture, class_id, design.name, design.licence, source)
        if design.name in _CLUTTER_DESIGNS:
            for code in clutter_emoji():
                if code in design.pictures:
                    source = f"{design.name}:{code}"
                    picture = design.pictures[code]
                    index.add_sprite(picture, CLUTTER, design.name, design.licence, source)


def _add_cutouts(index: Index, sources: Sources, photographs: dict[str, Photograph]) -> None:
    fish = class_names().index("fish")
    for path, photograph in sorted(photographs.items()):
        name = path.removeprefix("clickgame/resource/")
        if name == path or "sea" in name or "teeth" in name or not photograph.unrestricted:
            continue
        # the fishes are sheets of four poses; the first is enough
        with Image.open(io.BytesIO(photograph.data)) as sheet:
            cutout = sheet.convert("RGBA").crop((0, 0, sheet.width // 2, sheet.height))
        index.add_sprite(cutout, fish, "photograph", photograph.licence, f"gcompris:{path}")
    if STAMPS_DEBIAN not in sources.debian:
        return
    stamps = sources.debian[STAMPS_DEBIAN] / "usr/share/tuxpaint/stamps"
    for class_id, entry in enumerate(sticker_classes()):
        for stamp in entry.stamps:
            for file in (stamps / "animals" / f"{stamp}.png", stamps / f"{stamp}.png"):
                if file.exists():
                    with Image.open(file) as image:
                        index.add_sprite(
                            image, class_id, "photograph", "GPL-2.0", f"tuxpaint:{stamp}"
                        )


def _trim(image: Image.Image) -> Image.Image | None:
    """Cut away the transparent border and limit the size; None if hardly anything is left."""
    rgba = image.convert("RGBA")
    rows, columns = np.nonzero(np.asarray(rgba)[..., 3] > 24)
    if len(rows) < _MIN_PIXELS:
        return None
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    rgba = rgba.crop(box)
    rgba.thumbnail((_SPRITE_SIDE, _SPRITE_SIDE), Image.Resampling.LANCZOS)
    return rgba


def _opened(data: bytes, side: int) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    rgb.thumbnail((side, side), Image.Resampling.LANCZOS)
    return rgb


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the data pack of the demo models.")
    parser.add_argument("--out", type=Path, default=Path("pack"))
    parser.add_argument(
        "--downloads", type=Path, default=Path("build/downloads"), help="kept between runs"
    )
    parser.add_argument(
        "--free-only",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="--no-free-only adds the Tux Paint stamps (GPL-2)",
    )
    arguments = parser.parse_args()
    sources = fetch(arguments.downloads, with_stamps=not arguments.free_only)
    index = build(sources, arguments.out)
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    labelled = sum(sprite["class_id"] != CLUTTER for sprite in index.sprites)
    print(
        f"{arguments.out}: {labelled} cut-outs of {len(class_names())} classes, "
        f"{len(index.sprites) - labelled} for clutter, {len(index.photographs)} backgrounds, "
        f"{len(index.real)} real photographs, {size / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    main()
