"""Paste a sticker on the canvas: shadow, light, alpha."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from demo.compose.background import Canvas, to_canvas

_SMALLEST = 4
_SHADOW_PAD = 8


@dataclass(frozen=True, slots=True)
class Footprint:
    """Where a sticker covers the canvas.

    Attributes:
        rows: slice of the canvas.
        columns: slice of the canvas.
        opaque: (rows, columns) bool, alpha over one half.
    """

    rows: slice
    columns: slice
    opaque: NDArray[np.bool_]


def footprint(image: Image.Image, x: int, y: int, canvas: Canvas) -> Footprint | None:
    """What the RGBA `image` would cover with its corner at (x, y); None: nothing worth pasting."""
    height, width = canvas.shape[:2]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + image.width, width), min(y + image.height, height)
    if right - left < _SMALLEST or bottom - top < _SMALLEST:
        return None
    alpha = np.asarray(image.getchannel("A"))[top - y : bottom - y, left - x : right - x]
    return Footprint(slice(top, bottom), slice(left, right), alpha > 127)


def paste(
    rng: np.random.Generator, canvas: Canvas, image: Image.Image, x: int, y: int
) -> Footprint | None:
    """Blend the RGBA `image` into `canvas`, in place, with its corner at (x, y)."""
    place = footprint(image, x, y, canvas)
    if place is None:
        return None
    if rng.random() < 0.55:
        _cast_shadow(rng, canvas, image.getchannel("A"), x, y)
    part = to_canvas(image)[
        place.rows.start - y : place.rows.stop - y, place.columns.start - x : place.columns.stop - x
    ]
    ground = canvas[place.rows, place.columns]
    alpha = part[..., 3:]
    colour = np.clip(_lit(rng, part[..., :3], ground.mean((0, 1))), 0, 1)
    canvas[place.rows, place.columns] = ground * (1 - alpha) + colour * alpha
    return place


def _cast_shadow(
    rng: np.random.Generator, canvas: Canvas, alpha: Image.Image, x: int, y: int
) -> None:
    """Darken the ground under or behind the sticker."""
    width, height = alpha.size
    if rng.random() < 0.6:
        depth = max(3, int(height * rng.uniform(0.12, 0.4)))
        alpha = alpha.resize((width, depth), Image.Resampling.BILINEAR)
        left = x + int(width * rng.normal(0, 0.08))
        top = y + height - int(depth * rng.uniform(0.5, 0.8))
    else:
        left = x + int(rng.normal(0, 0.06) * width)
        top = y + int(abs(rng.normal(0, 0.06)) * height)
    soft = Image.new("L", (alpha.width + 2 * _SHADOW_PAD, alpha.height + 2 * _SHADOW_PAD))
    soft.paste(alpha, (_SHADOW_PAD, _SHADOW_PAD))
    blurred = soft.filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 5)))
    density = np.asarray(blurred, np.float32) / 255
    left, top = left - _SHADOW_PAD, top - _SHADOW_PAD
    x0, y0 = max(left, 0), max(top, 0)
    x1 = min(left + density.shape[1], canvas.shape[1])
    y1 = min(top + density.shape[0], canvas.shape[0])
    if x1 > x0 and y1 > y0:
        strength = np.float32(rng.uniform(0.15, 0.55))
        cut = density[y0 - top : y1 - top, x0 - left : x1 - left, None]
        canvas[y0:y1, x0:x1] *= 1 - strength * cut


def _lit(rng: np.random.Generator, rgb: Canvas, ground: NDArray[np.float32]) -> Canvas:
    """Pull colour and light part of the way to the ground, then vary them."""
    pull = rng.uniform(0, 0.45)
    brightness = float(np.clip(ground.mean() / (rgb.mean() + 1e-3), 0.5, 1.6))
    tint = np.clip(ground / (ground.mean() + 1e-3), 0.75, 1.3)
    gain = (1 + pull * (brightness - 1)) * (1 + 0.5 * pull * (tint - 1))
    gain = gain * np.exp(rng.normal(0, 0.06, 3)) * math.exp(rng.normal(0, 0.14))
    out: Canvas = rgb * gain.astype(np.float32)
    grey = out.mean(2, keepdims=True)
    out = grey + (out - grey) * np.float32(rng.uniform(0.6, 1.25))
    if rng.random() < 0.6:
        out = out * _one_sided_light(rng, out.shape[1], out.shape[0])[..., None]
    return out


def _one_sided_light(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    angle, amplitude = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.35)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * math.cos(angle)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * math.sin(angle)
    light: NDArray[np.float32] = 1 + np.float32(amplitude) * (x + y)
    return light.astype(np.float32)
