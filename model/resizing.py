"""Resizing as the published pipelines do it: sizes, pixels, normalisation, and logits back."""

from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.config import InputConfig

# beyond this aspect ratio the part outside the centre crop is not worth materialising
_EXTREME_ASPECT: Final = 8
# logits held at once while a class map is made, elements
_STRIP_ELEMENTS: Final = 1 << 24


def keep_ratio_size(height: int, width: int, *, long: int, short: int) -> tuple[int, int]:
    """(height, width) after fitting into (long, short) with the aspect ratio kept.

    int(side * scale + 0.5) with scale = min(long / longer, short / shorter), at least one pixel.
    """
    scale = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def short_side_size(height: int, width: int, short: int) -> tuple[int, int]:
    """(height, width) after bringing the shorter side to `short`; the longer one is truncated."""
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def resize_crop(rgb: NDArray[np.uint8], *, short: int, crop: int) -> NDArray[np.uint8]:
    """Antialiased bicubic resize of the shorter side, then the centre crop (classification).

    Args:
        rgb: (H, W, 3).

    Returns:
        (crop, crop, 3) uint8.
    """
    height, width = rgb.shape[:2]
    new_h, new_w = short_side_size(height, width, short)
    top, left = round((new_h - crop) / 2), round((new_w - crop) / 2)
    image = Image.fromarray(rgb)
    if max(new_h, new_w) <= _EXTREME_ASPECT * short:
        resized = image.resize((new_w, new_h), Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((left, top, left + crop, top + crop)))
    scale_y, scale_x = height / new_h, width / new_w
    box = (left * scale_x, top * scale_y, (left + crop) * scale_x, (top + crop) * scale_y)
    return np.asarray(image.resize((crop, crop), Image.Resampling.BICUBIC, box=box))


def resize_keep_ratio(rgb: NDArray[np.uint8], *, long: int, short: int) -> NDArray[np.uint8]:
    """Bilinear resize on uint8 into (long, short), as OpenCV does it (detection, segmentation)."""
    new_h, new_w = keep_ratio_size(rgb.shape[0], rgb.shape[1], long=long, short=short)
    resized = cv2.resize(rgb, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def normalise(rgb: NDArray[np.uint8], config: InputConfig) -> Tensor:
    """(H, W, 3) uint8 -> (3, H', W') float32: (x - mean) / std, then zero padding right and bottom.

    H' and W' are the next multiples of `config.pad_multiple`.
    """
    pixels = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)
    mean = torch.tensor(config.mean).view(3, 1, 1)
    std = torch.tensor(config.std).view(3, 1, 1)
    pad_h = -pixels.shape[1] % config.pad_multiple
    pad_w = -pixels.shape[2] % config.pad_multiple
    return F.pad((pixels - mean) / std, (0, pad_w, 0, pad_h)).contiguous()


def logits_to_label_map(
    logits: Tensor, resized_hw: tuple[int, int], original_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """Resize logits to the resized, then to the original size, bilinearly both times; argmax.

    Works in strips of rows, so that full-size logits never exist: 150 classes of a 12 Mpx
    photograph would take 7 GB.

    Args:
        logits: (K, h, w) float32, K <= 256.

    Returns:
        (H, W) uint8 of `original_hw`.
    """
    strips = [
        strip.argmax(dim=0).to(torch.uint8)
        for strip in iter_full_logits(logits, resized_hw, original_hw)
    ]
    return torch.cat(strips).numpy()


def iter_full_logits(
    logits: Tensor, resized_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Iterator[Tensor]:
    """Strips (K, rows, W) of the logits at the original size, top to bottom."""
    height, width = original_hw
    mid_h, mid_w = resized_hw
    rows = max(1, _STRIP_ELEMENTS // (logits.shape[0] * max(width, mid_w)))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        low, high, weight = _row_taps(start, stop, mid_h, height)
        first, last = int(low[0]), int(high[-1]) + 1
        middle = _resize_rows(logits, first, last, mid_h, mid_w)
        strip = torch.lerp(middle[:, low - first], middle[:, high - first], weight.view(1, -1, 1))
        yield _resize_columns(strip, width)


def _row_taps(start: int, stop: int, source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows start..stop of `target` as pairs of rows of `source` and the second one's weight."""
    position = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * (source / target) - 0.5
    position = position.clamp(0, source - 1)
    low = position.floor().long()
    return low, (low + 1).clamp(max=source - 1), (position - low).float()


def _resize_rows(logits: Tensor, start: int, stop: int, height: int, width: int) -> Tensor:
    """Rows start..stop of `logits` resized to (height, width): (K, stop - start, width)."""
    low, high, weight = _row_taps(start, stop, logits.shape[1], height)
    rows = torch.lerp(logits[:, low], logits[:, high], weight.view(1, -1, 1))
    return _resize_columns(rows, width)


def _resize_columns(rows: Tensor, width: int) -> Tensor:
    size = (rows.shape[1], width)
    return F.interpolate(rows.unsqueeze(0), size=size, mode="bilinear", align_corners=False)[0]
