"""Contact sheets of composed pictures, to judge them by eye.

python -m demo.contact_sheet --pack pack --kind scenes --out build/scenes.png
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from demo.compose import Composer, Split

_CAPTION = 12


def singles_sheet(composer: Composer, columns: int, rows: int) -> Image.Image:
    """Pictures of one object, its class name above."""
    side = composer.width
    sheet = Image.new("RGB", (columns * side, rows * (side + _CAPTION)), "white")
    for i in range(columns * rows):
        row, column = divmod(i, columns)
        pixels, class_id = composer.single()
        name = composer.class_names[class_id]
        ImageDraw.Draw(sheet).text((column * side + 2, row * (side + _CAPTION)), name, "black")
        sheet.paste(Image.fromarray(pixels), (column * side, row * (side + _CAPTION) + _CAPTION))
    return sheet


def scenes_sheet(composer: Composer, columns: int, rows: int) -> Image.Image:
    """Scenes with their boxes and names; below each its instance masks."""
    width, height = composer.width, composer.height
    colours = np.random.default_rng(3).integers(70, 255, (256, 3), np.uint8)
    sheet = Image.new("RGB", (columns * width, rows * 2 * height))
    for i in range(columns * rows):
        row, column = divmod(i, columns)
        scene = composer.scene()
        picture = Image.fromarray(scene["image"])
        masks = np.zeros((height, width, 3), np.uint8)
        draw = ImageDraw.Draw(picture)
        for k, label in enumerate(scene["labels"]):
            colour = tuple(int(value) for value in colours[k])
            x1, y1, x2, y2 = scene["boxes"][k].tolist()
            draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=2)
            draw.text((x1 + 3, y1 + 1), composer.class_names[int(label)], fill=colour)
            masks[scene["masks"][k]] = colours[k]
        sheet.paste(picture, (column * width, 2 * row * height))
        sheet.paste(Image.fromarray(masks), (column * width, (2 * row + 1) * height))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Contact sheets of composed pictures.")
    parser.add_argument("--pack", type=Path, default=Path("pack"))
    parser.add_argument("--kind", choices=("singles", "scenes"), default="scenes")
    parser.add_argument("--split", type=Split, choices=list(Split), default=Split.TRAIN)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    composer = Composer(arguments.pack, arguments.size, arguments.split, arguments.seed)
    draw = singles_sheet if arguments.kind == "singles" else scenes_sheet
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    draw(composer, arguments.columns, arguments.rows).save(arguments.out)


if __name__ == "__main__":
    main()
