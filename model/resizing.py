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
EXTREME_ASPECT: Final = 8
# of a strip of full-size logits: few enough to stay in a processor's cache while it is made
_STRIP_PIXELS: Final = 1 << 15
# relative to the largest logit; hundreds of times the rounding errors of both resizings
_ROUNDING: Final = 1e-4


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


def crop_corner(hw: tuple[int, int], crop: int) -> tuple[int, int]:
    """Top and left of the centre crop."""
    return round((hw[0] - crop) / 2), round((hw[1] - crop) / 2)


def resize_crop(rgb: NDArray[np.uint8], *, short: int, crop: int) -> NDArray[np.uint8]:
    """Antialiased bicubic resize of the shorter side, then the centre crop (classification).

    Args:
        rgb: (H, W, 3).

    Returns:
        (crop, crop, 3) uint8.
    """
    height, width = rgb.shape[:2]
    new_h, new_w = short_side_size(height, width, short)
    top, left = crop_corner((new_h, new_w), crop)
    image = Image.fromarray(rgb)
    if max(new_h, new_w) <= EXTREME_ASPECT * short:
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
    photograph would take 7 GB. A strip leaves out the classes that cannot win anywhere in it.

    Args:
        logits: (K, h, w) float32, K <= 256.

    Returns:
        (H, W) uint8 of `original_hw`.
    """
    contenders = _find_contenders(logits)
    labels = torch.empty(original_hw, dtype=torch.uint8)
    for start, stop in _strips(original_hw):
        rows = _source_rows(start, stop, (logits.shape[1], resized_hw[0], original_hw[0]))
        class_ids = contenders[:, rows].any(dim=1).nonzero()[:, 0]
        if len(class_ids) == 1:
            labels[start:stop] = class_ids[0]
            continue
        strip = _full_rows(logits[class_ids], start, stop, resized_hw, original_hw)
        # like argmax, the first of equals, but many times faster along the outermost axis
        labels[start:stop] = class_ids.to(torch.uint8)[strip.max(dim=0).indices]
    return labels.numpy()


def iter_full_logits(
    logits: Tensor, resized_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Iterator[Tensor]:
    """Strips (K, rows, W) of the logits at the original size, top to bottom."""
    for start, stop in _strips(original_hw):
        yield _full_rows(logits, start, stop, resized_hw, original_hw)


def _strips(original_hw: tuple[int, int]) -> Iterator[tuple[int, int]]:
    height, width = original_hw
    rows = max(1, _STRIP_PIXELS // width)
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _find_contenders(logits: Tensor) -> Tensor:
    """(K, h) bool: False where class k cannot win in any pixel made from around that row.

    A resized logit is a weighted mean of logits at most three rows and columns apart. Where all
    nine of a class are below all nine of another one, it loses, whatever the weights.
    """
    highest = F.max_pool2d(logits, kernel_size=3, stride=1, padding=1)
    lowest = -F.max_pool2d(-logits, kernel_size=3, stride=1, padding=1)
    margin = _ROUNDING * logits.abs().amax()
    # not "at least": a class with NaN stays in
    return (~(highest < lowest.amax(dim=0) - margin)).any(dim=2)


def _source_rows(start: int, stop: int, heights: tuple[int, int, int]) -> slice:
    """Rows of the logits that rows start..stop of the class map are made from.

    Args:
        heights: of the logits, the resized and the original image.
    """
    source, middle, target = heights
    low, high, _ = _row_taps(start, stop, middle, target)
    low, high, _ = _row_taps(int(low[0]), int(high[-1]) + 1, source, middle)
    return slice(int(low[0]), int(high[-1]) + 1)


def _full_rows(
    logits: Tensor,
    start: int,
    stop: int,
    resized_hw: tuple[int, int],
    original_hw: tuple[int, int],
) -> Tensor:
    """(K, stop - start, W): rows start..stop of the logits at the original size."""
    low, high, weight = _row_taps(start, stop, resized_hw[0], original_hw[0])
    first, last = int(low[0]), int(high[-1]) + 1
    middle = _resize_rows(logits, first, last, *resized_hw)
    strip = torch.lerp(middle[:, low - first], middle[:, high - first], weight.view(1, -1, 1))
    return _resize_columns(strip, original_hw[1])


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
