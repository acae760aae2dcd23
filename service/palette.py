"""Colours of the classes: far apart, stable per class id, readable on photographs."""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

NUM_COLOURS: Final = 256

Colour = tuple[int, int, int]

# Bright enough for a tint, never so pale that it could be taken for the picture itself.
_LIGHTNESS: Final = (0.52, 0.86)
_CHROMA: Final = (0.11, 0.23)
_FIRST: Final = (38, 128, 235)


def class_colour(class_id: int) -> Colour:
    """RGB of a class; ids above `NUM_COLOURS` start over."""
    red, green, blue = _palette()[class_id % NUM_COLOURS].tolist()
    return red, green, blue


def class_colours() -> NDArray[np.uint8]:
    """(NUM_COLOURS, 3) RGB, row = class id; read-only."""
    return _palette()


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever reads better on `colour`."""
    lightness = float(srgb_to_oklab(np.array([colour], dtype=np.uint8))[0, 0])
    return (15, 18, 24) if lightness > 0.64 else (255, 255, 255)


def srgb_to_oklab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, 3) sRGB -> (N, 3) Oklab, in which distance is close to what the eye sees.

    Source: B. Ottosson, "A perceptual color space for image processing", 2020.
    """
    channels = rgb / 255.0
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab: NDArray[np.float64] = np.cbrt(linear @ to_cones.T) @ to_lab.T
    return lab


@cache
def _palette() -> NDArray[np.uint8]:
    """Farthest-point selection: each colour is as far as possible from all before it."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = srgb_to_oklab(grid)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (
        (lab[:, 0] >= _LIGHTNESS[0])
        & (lab[:, 0] <= _LIGHTNESS[1])
        & (chroma >= _CHROMA[0])
        & (chroma <= _CHROMA[1])
    )
    candidates = np.concatenate([np.array([_FIRST], dtype=np.uint8), grid[usable]])
    lab = srgb_to_oklab(candidates)
    chosen = [0]
    distance = np.linalg.norm(lab - lab[0], axis=1)
    for _ in range(NUM_COLOURS - 1):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    palette = candidates[chosen]
    palette.setflags(write=False)
    return palette
