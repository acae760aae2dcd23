"""Make `demo/samples`: photographs and composed sticker scenes, with where each comes from.

    python -m demo.sample_pictures --pack pack --downloads build/downloads

Only material without conditions (public domain, CC0) or under MIT, OFL and Apache licences is used.
"""

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from demo.compose import Composer, Split
from demo.packing.photographs import Photograph, gcompris_photographs
from demo.packing.sources import SourceError, fetch

OUT: Final = Path(__file__).parent / "samples"
_SIDE: Final = 512
_QUALITY: Final = 82
_SCENE_SIZE: Final = (640, 480)
# path of the photograph below GCompris' activities -> (file, title)
_PHOTOGRAPHS: Final[Mapping[str, tuple[str, str]]] = {
    "erase/resource/kingfisher": ("kingfisher", "Kingfisher on a twig"),
    "erase/resource/red_panda": ("red-panda", "Red panda"),
    "erase/resource/crab": ("crab", "Red crab on a rock"),
    "erase/resource/giraffe": ("giraffe", "Head of a giraffe"),
    "explore_farm_animals/resource/animals/dog": ("dog", "German shepherd"),
    "explore_farm_animals/resource/animals/cat": ("cat", "Kitten at play"),
    "explore_farm_animals/resource/animals/cow": ("cows", "Cows in a meadow"),
    "explore_world_animals/resource/animals/scarlet_macaw": ("macaw", "Scarlet macaw"),
    "explore_world_animals/resource/animals/koala": ("koala", "Koala, portrait format"),
    "explore_monuments/resource/wonders/machuPicchu": ("machu-picchu", "Machu Picchu"),
}
# seeds of scenes that look natural and differ from one another; chosen by eye
_SCENE_SEEDS: Final = (123, 129, 131, 142, 145)
_HEADER: Final = """# Sources of the sample pictures

Made by `python -m demo.sample_pictures`. Photographs are resized copies.

## Photographs

From the package `gcompris-qt-data` (GCompris), licences as stated in its README files.

| file | title | author | licence | source |
| --- | --- | --- | --- | --- |
"""
_SCENES_HEADER: Final = """
## Composed scenes

Stickers pasted on photographs that the demo models were not trained on.

| file | labelled stickers |
| --- | --- |
"""
_LICENCES: Final = """
Designs: `fluent-*` are Fluent Emoji, (c) Microsoft Corporation, MIT; `noto` is Noto Color Emoji,
(c) Google, SIL Open Font License 1.1; `noto-v1` is Noto Emoji 1, (c) Google, Apache License 2.0;
`gcompris` are fishes of xfishtank as shipped with GCompris, public domain. The numbers are Unicode
code points. Unlabelled things in a scene come from the same designs. `../MODEL_CARD.md` has the
licence notices. The backgrounds are among these photographs from `gcompris-qt-data`:

| title in the package | author | licence |
| --- | --- | --- |
"""


def save_photographs(photographs: Mapping[str, Photograph], out: Path) -> list[str]:
    """Write the photographs as JPEG; returns their table rows.

    Raises:
        SourceError: one is missing or its licence has conditions.
    """
    rows = []
    for path, (name, title) in _PHOTOGRAPHS.items():
        photograph = photographs.get(f"{path}.webp")
        if photograph is None or not photograph.unrestricted:
            found = "nothing" if photograph is None else photograph.licence
            raise SourceError(f"{path}: found {found}, expected a public-domain or CC0 photograph")
        with Image.open(io.BytesIO(photograph.data)) as image:
            rgb = image.convert("RGB")
        rgb.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        _save(rgb, out / f"{name}.jpg")
        cells = (f"{name}.jpg", title, photograph.author, photograph.licence, photograph.source)
        rows.append(_row(*cells))
    return rows


def save_scenes(pack: Path, out: Path) -> list[str]:
    """Write the composed scenes as JPEG; returns their table rows."""
    rows = []
    for number, seed in enumerate(_SCENE_SEEDS, start=1):
        scene = Composer(pack, _SCENE_SIZE, Split.HELDOUT, seed).scene()
        name = f"stickers-{number}.jpg"
        _save(Image.fromarray(scene["image"]), out / name)
        rows.append(_row(name, ", ".join(scene["sources"])))
    return rows


def _background_rows(pack: Path, photographs: Mapping[str, Photograph]) -> list[str]:
    heldout = Composer(pack, _SCENE_SIZE, Split.HELDOUT).pack.photograph_sources
    rows = []
    for source in heldout:
        path = source.split()[0].removeprefix("gcompris:")
        photograph = photographs[path]
        rows.append(_row(path, photograph.author, photograph.licence))
    return rows


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, quality=_QUALITY, optimize=True, progressive=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sample pictures of the demo.")
    parser.add_argument("--pack", type=Path, default=Path("pack"))
    parser.add_argument("--downloads", type=Path, default=Path("build/downloads"))
    arguments = parser.parse_args()
    sources = fetch(arguments.downloads, with_stamps=False)
    photographs = gcompris_photographs(sources.debian["gcompris-qt-data"])
    OUT.mkdir(exist_ok=True)
    lines = [
        _HEADER + "\n".join(save_photographs(photographs, OUT)),
        _SCENES_HEADER + "\n".join(save_scenes(arguments.pack, OUT)),
        _LICENCES + "\n".join(_background_rows(arguments.pack, photographs)),
    ]
    (OUT / "SOURCES.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
