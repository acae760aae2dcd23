"""What the stickers lie on: a piece of a photograph, a ground under a sky, or a texture."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from demo.compose.pack import Pack

Canvas = NDArray[np.float32]
_BILINEAR = Image.Resampling.BILINEAR


def draw_background(rng: np.random.Generator, pack: Pack, width: int, height: int) -> Canvas:
    """(height, width, 3) float32, 0..1."""
    kind = rng.random()
    if kind < 0.80:
        canvas = _photograph(rng, pack, width, height)
    elif kind < 0.93:
        canvas = _ground_and_sky(rng, pack, width, height)
    else:
        canvas = _texture(rng, width, height)
    return np.clip(canvas, 0, 1).astype(np.float32)


def to_canvas(image: Image.Image) -> Canvas:
    """8-bit picture -> (H, W, channels) float32, 0..1."""
    pixels: Canvas = np.asarray(image, np.float32) / np.float32(255)
    return pixels


def photograph_piece(
    rng: np.random.Generator, pack: Pack, width: int, height: int, least: float, most: float
) -> Image.Image:
    """A piece of some photograph, resized to `width` x `height`.

    Args:
        least: smallest size of the piece as a share of the largest that fits; log-uniform.
        most: largest such share.
    """
    image = pack.pick_photograph(rng)
    fit = min(image.width / width, image.height / height)
    scale = fit * math.exp(rng.uniform(math.log(least), math.log(most)))
    x = rng.uniform(0, image.width - scale * width)
    y = rng.uniform(0, image.height - scale * height)
    # rounding must not push the piece over the border by an ulp
    right = min(x + scale * width, image.width)
    bottom = min(y + scale * height, image.height)
    return image.resize((width, height), _BILINEAR, box=(x, y, right, bottom))


def fractal_noise(
    rng: np.random.Generator, width: int, height: int, octaves: int = 5
) -> NDArray[np.float32]:
    """Cloud-like noise, (height, width), 0..1."""
    total = np.zeros((height, width), np.float32)
    amplitude = 1.0
    for octave in range(octaves):
        side = 2 ** (octave + 1) + 1
        grid = Image.fromarray(rng.random((side, side), np.float32))
        total += amplitude * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
        amplitude *= rng.uniform(0.4, 0.7)
    total -= total.min()
    noise: NDArray[np.float32] = total / (total.max() + np.float32(1e-6))
    return noise


def _photograph(rng: np.random.Generator, pack: Pack, width: int, height: int) -> Canvas:
    image = photograph_piece(rng, pack, width, height, 0.33, 1.0)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3.5)))
    return to_canvas(image)


def _ground_and_sky(rng: np.random.Generator, pack: Pack, width: int, height: int) -> Canvas:
    canvas = np.empty((height, width, 3), np.float32)
    horizon = max(1, int(height * rng.uniform(0.2, 0.65)))
    top, bottom = rng.uniform(0.35, 1, 3), rng.uniform(0.35, 1, 3)
    top[2], bottom[2] = max(top[2], 0.6), max(bottom[2], 0.6)
    share = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
    canvas[:horizon] = top * (1 - share) + bottom * share
    clouds = fractal_noise(rng, width, horizon) - 0.5
    canvas[:horizon] += clouds[..., None] * np.float32(rng.uniform(0, 0.5))
    ground = photograph_piece(rng, pack, width, height - horizon, 0.15, 0.5)
    canvas[horizon:] = to_canvas(ground)
    return canvas


def _texture(rng: np.random.Generator, width: int, height: int) -> Canvas:
    noise = fractal_noise(rng, width, height, int(rng.integers(2, 7)))[..., None]
    colours = rng.random((3, 3)).astype(np.float32)
    grey = colours.mean(1, keepdims=True)
    low, middle, high = grey + (colours - grey) * np.float32(rng.uniform(0.2, 0.8))
    canvas = np.where(
        noise < 0.5,
        low + (middle - low) * (2 * noise),
        middle + (high - middle) * (2 * noise - 1),
    )
    if rng.random() < 0.4:
        canvas = canvas * (1 + rng.uniform(0.1, 0.35) * _stripes(rng, width, height)[..., None])
    out: Canvas = canvas.astype(np.float32)
    return out


def _stripes(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """Planks or lines, (height, width), -1 or 1."""
    angle, period = rng.uniform(0, math.pi), rng.uniform(10, 60)
    x = np.arange(width, dtype=np.float32)[None, :] * math.cos(angle)
    y = np.arange(height, dtype=np.float32)[:, None] * math.sin(angle)
    stripes: NDArray[np.float32] = np.sign(np.sin((x + y) * np.float32(2 * math.pi / period)))
    return stripes
