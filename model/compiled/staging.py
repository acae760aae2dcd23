"""Photographs to the device: one copy, then the published pipelines' resizing in a few launches."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.resizing.packing import PackedBatch, Resampling
from kernels.resizing.taps import bicubic_taps, bilinear_taps
from kernels.resizing.triton_fwd import resample_bicubic, resample_bilinear
from model.config import InputConfig, TaskName
from model.resizing import EXTREME_ASPECT, crop_corner, keep_ratio_size, short_side_size

_PILLOW_MAJOR: Final = int(PIL.__version__.split(".")[0])
# one batch is packed while the one before is still being copied
_SLOTS: Final = 2


def network_hw(
    height: int, width: int, task: TaskName, config: InputConfig
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes of a picture of height x width pixels as the network sees it.

    Returns:
        (height, width) after resizing and cropping, and the same after padding.
    """
    if task is TaskName.CLASSIFY:
        crop = config.crop or config.short
        resized_hw = (crop, crop)
    else:
        long = config.long or config.short
        resized_hw = keep_ratio_size(height, width, long=long, short=config.short)
    pad_h, pad_w = (-side % config.pad_multiple for side in resized_hw)
    return resized_hw, (resized_hw[0] + pad_h, resized_hw[1] + pad_w)


class PictureStager:
    """Brings batches of pictures to one device; belongs to the thread that owns the device.

    The pixels are those of `model.resizing.resize_crop` and `resize_keep_ratio`, bit for bit.
    """

    def __init__(self, device: torch.device | str, task: TaskName, config: InputConfig) -> None:
        """Memory is allocated with the batches, and kept.

        Args:
            device: with CUDA the current device, where Triton launches.

        Raises:
            ValueError: the crop is larger than the resized picture.
        """
        if task is TaskName.CLASSIFY and (config.crop or config.short) > config.short:
            raise ValueError(f"crop {config.crop} does not fit into short side {config.short}")
        self._device = torch.empty(0, device=device).device  # `cuda` has a number from here on
        self._task = task
        self._config = config
        self._slots = [_Slot(self._device) for _ in range(_SLOTS)]

    def load(self, pictures: Sequence[NDArray[np.uint8]], out: Tensor) -> None:
        """Resize and pad `pictures` into `out`, on the current stream; returns before it is done.

        The pictures are no longer needed when this returns.

        Args:
            pictures: (H, W, 3) uint8 RGB each, upright, any size from 1x1.
            out: (B, padded H, padded W, 4) uint8 on the device, contiguous: RGBX, where X is 255
                inside the picture; all four are 0 in the padding.

        Raises:
            ValueError: `out` does not fit the pictures, or a picture is no RGB picture.
        """
        self._check(pictures, out)
        bicubic = self._task is TaskName.CLASSIFY
        resampling = partial(_resampling, task=self._task, config=self._config)
        packed = PackedBatch(
            [resampling(picture) for picture in pictures],
            padded_width=out.shape[2],
            bicubic=bicubic,
        )
        self._slots.append(self._slots.pop(0))
        slot = self._slots[-1]
        packed.write(slot.reserve(packed.nbytes))
        batch = packed.view(slot.send(packed.nbytes))
        if bicubic:
            resample_bicubic(
                batch,
                out,
                size=self._config.crop or self._config.short,
                max_lines=packed.max_lines,
                middle_pixels=packed.middle_pixels,
            )
        else:
            resample_bilinear(batch, out)
        slot.release()

    def _check(self, pictures: Sequence[NDArray[np.uint8]], out: Tensor) -> None:
        for picture in pictures:
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise ValueError(
                    f"a picture is (H, W, 3) uint8, got {picture.shape} {picture.dtype}"
                )
        padded = {network_hw(p.shape[0], p.shape[1], self._task, self._config)[1] for p in pictures}
        expected = [(len(pictures), *hw, 4) for hw in sorted(padded)]
        if expected != [tuple(out.shape)]:
            raise ValueError(f"out is {tuple(out.shape)}, the pictures need {expected}")
        if out.dtype != torch.uint8 or not out.is_contiguous() or out.device != self._device:
            raise ValueError(
                f"out must be contiguous uint8 on {self._device}, got {out.dtype}, "
                f"strides {out.stride()}, on {out.device}"
            )


class _Slot:
    """One packed batch: pinned memory on the host, as much on the device, and when both are free.

    Without CUDA both are the same ordinary memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_host = self._on_device = torch.empty(0, dtype=torch.uint8)
        self._device = device
        self._free: torch.cuda.Event | None = None

    def reserve(self, nbytes: int) -> NDArray[np.uint8]:
        """At least `nbytes` of host memory; waits until the last batch in it has been resized."""
        if self._free is not None:
            self._free.synchronize()
        if nbytes > self._on_host.numel():
            nbytes = max(nbytes, 2 * self._on_host.numel())
            pinned = self._device.type == "cuda"
            self._on_host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned)
            self._on_device = self._on_host
            if pinned:
                self._on_device = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        return self._on_host.numpy()

    def send(self, nbytes: int) -> Tensor:
        """(nbytes,) uint8 on the device, once the current stream gets there."""
        if self._device.type == "cuda":
            self._on_device[:nbytes].copy_(self._on_host[:nbytes], non_blocking=True)
        return self._on_device[:nbytes]

    def release(self) -> None:
        """To be called after the last launch that reads the batch."""
        if self._device.type == "cuda":
            self._free = torch.cuda.current_stream(self._device).record_event()


def _resampling(picture: NDArray[np.uint8], *, task: TaskName, config: InputConfig) -> Resampling:
    height, width = picture.shape[:2]
    if task is TaskName.CLASSIFY:
        return _resize_crop(picture, config.short, config.crop or config.short)
    (new_h, new_w), _ = network_hw(height, width, task, config)
    return Resampling(
        picture,
        rows=bilinear_taps(height, new_h, vertical=True),
        columns=bilinear_taps(width, new_w, vertical=False),
    )


def _resize_crop(picture: NDArray[np.uint8], short: int, crop: int) -> Resampling:
    """The geometry of `model.resizing.resize_crop`."""
    hw = (picture.shape[0], picture.shape[1])
    new_hw = short_side_size(*hw, short)
    corner = crop_corner(new_hw, crop)
    if max(new_hw) <= EXTREME_ASPECT * short:
        rows, columns = (
            bicubic_taps(source, target, crop=(start, start + crop))
            for source, target, start in zip(hw, new_hw, corner, strict=True)
        )
        return Resampling(picture, rows, columns, _vertical_first(hw, new_hw))
    rows, columns = (
        bicubic_taps(
            source, crop, box=(start * (source / target), (start + crop) * (source / target))
        )
        for source, target, start in zip(hw, new_hw, corner, strict=True)
    )
    return Resampling(picture, rows, columns, _vertical_first(hw, (crop, crop)))


def _vertical_first(source_hw: tuple[int, int], target_hw: tuple[int, int]) -> bool:
    """Which pass Pillow's `resize` runs first; the two orders round differently.

    `ImagingResampleInner` since 13.0, the end of `Image.resize` in 12.3.
    """
    lost_h, lost_w = (source_hw[axis] - target_hw[axis] for axis in range(2))
    if _PILLOW_MAJOR >= 13:
        return lost_h > 0 and lost_h > 2 * lost_w
    return lost_h > 0 and source_hw[0] > 100 * source_hw[1]
