"""What a camera and an upload do to the finished picture: tone, noise, blur, JPEG."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from demo.compose.background import Canvas


def photograph(rng: np.random.Generator, canvas: Canvas) -> NDArray[np.uint8]:
    """(H, W, 3) float32 about 0..1 -> uint8 as a camera would give it."""
    toned = _noisy(rng, _toned(rng, canvas))
    image = Image.fromarray((np.clip(toned, 0, 1) * 255).astype(np.uint8))
    return np.array(_compressed(rng, _softened(rng, image)))


def _toned(rng: np.random.Generator, canvas: Canvas) -> Canvas:
    if rng.random() < 0.5:
        canvas = canvas * np.exp(rng.normal(0, 0.07, 3)).astype(np.float32)
    gamma = np.float32(math.exp(rng.normal(0, 0.2)))
    gain = np.float32(math.exp(rng.normal(0, 0.08)))
    toned: Canvas = np.power(np.clip(canvas, 0, 1), gamma) * gain
    if rng.random() < 0.3:
        x = np.linspace(-1, 1, canvas.shape[1], dtype=np.float32)[None, :, None]
        y = np.linspace(-1, 1, canvas.shape[0], dtype=np.float32)[:, None, None]
        strength = np.float32(rng.uniform(0.05, 0.35))
        toned *= 1 - strength * (x**2 + y**2) / 2
    return toned


def _noisy(rng: np.random.Generator, canvas: Canvas) -> Canvas:
    if rng.random() < 0.6:
        strength = np.float32(rng.uniform(0.005, 0.04))
        canvas = canvas + strength * rng.standard_normal(canvas.shape, np.float32)
    return canvas


def _softened(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    kind = rng.random()
    if kind < 0.2:
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.4)))
    if kind < 0.3:
        scale = rng.uniform(0.45, 0.8)
        small = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        return image.resize(small, Image.Resampling.BILINEAR).resize(
            image.size, Image.Resampling.BICUBIC
        )
    if kind < 0.36:
        kernel = np.zeros((5, 5))
        if rng.random() < 0.5:
            kernel[2] = 1
        else:
            kernel[:, 2] = 1
        return image.filter(ImageFilter.Kernel((5, 5), kernel.ravel().tolist(), 5))
    return image


def _compressed(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    if rng.random() >= 0.7:
        return image
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(35, 96)))
    return Image.open(buffer).convert("RGB")
