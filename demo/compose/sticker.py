"""One sticker made ready for pasting: mirrored, scaled, rotated, sheared, softened."""

import math
from typing import Final

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from demo.compose.background import photograph_piece
from demo.compose.pack import Pack, Sprite

_RESAMPLE: Final = Image.Resampling


def warp(rng: np.random.Generator, sprite: Sprite, long_side: float) -> Image.Image:
    """The sprite with a long side of about `long_side` pixels, RGBA.

    Some come through a small copy first, as pictures from a phone's keyboard do.
    """
    image = sprite.image
    if sprite.mirrors and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if rng.random() < 0.25:
        image = _through_small_copy(image, rng.uniform(40, 110))
    scale = long_side / max(image.size)
    width = max(4, round(image.width * scale * math.exp(rng.normal(0, 0.09))))
    height = max(4, round(image.height * scale * math.exp(rng.normal(0, 0.09))))
    filter_ = _RESAMPLE.BICUBIC if scale > 1 else _RESAMPLE.LANCZOS
    image = image.resize((width, height), filter_, reducing_gap=2.0)
    free = sprite.rotates and rng.random() >= 0.35
    angle = math.radians(rng.uniform(-180, 180) if free else rng.normal(0, 9))
    shear = rng.normal(0, 0.07)
    if abs(angle) > 0.026 or abs(shear) > 0.02:
        image = _rotate_and_shear(image, angle, shear)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    return image


def masquerade(rng: np.random.Generator, pack: Pack, image: Image.Image) -> Image.Image:
    """The sticker's shape filled with a photograph, so that a cut edge alone means nothing."""
    filled = photograph_piece(rng, pack, image.width, image.height, 0.15, 0.6).convert("RGBA")
    filled.putalpha(image.getchannel("A"))
    return filled


def _through_small_copy(image: Image.Image, side: float) -> Image.Image:
    scale = side / max(image.size)
    if scale >= 1:
        return image
    size = (max(4, round(image.width * scale)), max(4, round(image.height * scale)))
    return image.resize(size, _RESAMPLE.BILINEAR, reducing_gap=2.0)


def _rotate_and_shear(image: Image.Image, angle: float, shear: float) -> Image.Image:
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = rotation @ np.array([[1, shear], [0, 1]])
    half_width, half_height = image.width / 2, image.height / 2
    corners = forward @ np.array(
        [
            [-half_width, half_width, half_width, -half_width],
            [-half_height, -half_height, half_height, half_height],
        ]
    )
    width, height = (int(extent) + 3 for extent in np.ptp(corners, axis=1))
    inverse = np.linalg.inv(forward)
    offset = np.array([half_width, half_height]) - inverse @ np.array([width / 2, height / 2])
    (a, b), (d, e) = inverse
    matrix = (a, b, float(offset[0]), d, e, float(offset[1]))
    return image.transform(
        (width, height), Image.Transform.AFFINE, matrix, resample=_RESAMPLE.BICUBIC
    )
