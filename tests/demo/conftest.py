"""A small pack of drawn shapes, so that no test needs the real one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "triangle")
DESIGNS = ("plain", "striped", "twemoji")
TRAIN_COLOUR = (200, 60, 40)
HELDOUT_COLOUR = (40, 60, 200)


def draw_shape(kind: int, design: str) -> Image.Image:
    image = Image.new("RGBA", (72, 64))
    draw = ImageDraw.Draw(image)
    colour = ((230, 40, 40, 255), (40, 200, 60, 255), (50, 70, 230, 255))[kind % 3]
    if kind == 0:
        draw.ellipse((0, 0, 71, 63), fill=colour)
    elif kind == 1:
        draw.rectangle((0, 0, 71, 63), fill=colour)
    else:
        draw.polygon(((0, 63), (36, 0), (71, 63)), fill=colour)
    if design == "striped":
        for y in range(0, 64, 12):
            draw.line((20, y, 50, y), fill=(250, 250, 250, 255), width=4)
    return image


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pack")
    for folder in ("sprites", "photographs", "real"):
        (root / folder).mkdir()
    sprites, photographs = [], []
    for design in DESIGNS:
        for class_id in (*range(len(CLASSES)), -1):
            file = f"sprites/{design}{class_id}.png"
            draw_shape(class_id % 3, design).save(root / file)
            source = f"{design}:{class_id}"
            sprites.append({"file": file, "class_id": class_id, "design": design, "source": source})
    rng = np.random.default_rng(0)
    for number in range(6):
        split = "heldout" if number % 3 == 2 else "train"
        colour = HELDOUT_COLOUR if split == "heldout" else TRAIN_COLOUR
        noise = rng.integers(-20, 20, (120, 160, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        file = f"photographs/{number}.png"
        Image.fromarray(pixels).save(root / file)
        photographs.append({"file": file, "split": split, "source": f"drawn:{number}"})
    draw_shape(1, "plain").convert("RGB").save(root / "real/0.png")
    index = {
        "classes": [
            {"name": name, "rotates": i == 0, "mirrors": i != 2} for i, name in enumerate(CLASSES)
        ],
        "sprites": sprites,
        "photographs": photographs,
        "real": [{"file": "real/0.png", "class_id": 1}],
    }
    (root / "index.json").write_text(json.dumps(index))
    return root
