"""Photographs to the device: one copy, then the published pipelines' resizing in a few launches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.resizing.packing import PackedBatch, Resampling
from kernels.resizing.taps import AxisTaps, bicubic_taps, bilinear_taps
from kernels.resizing.triton_fwd import resample_bicubic, resample_bilinear
from model.compiled.slots import Slot, Slots, make_lane
from model.config import InputConfig, TaskName
from model.resizing import EXTREME_ASPECT, crop_corner, keep_ratio_size, short_side_size

_PILLOW_MAJOR: Final = int(PIL.__version__.split(".")[0])


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


@dataclass(frozen=True, slots=True)
class StagedPictures:
    """A batch on its way to the device, to be resized there once.

    Attributes:
        shape: of the batch when it is resized, (B, padded H, padded W, 4).
    """

    shape: tuple[int, int, int, int]
    packed: PackedBatch
    slot: Slot


class PictureStager:
    """Brings batches of pictures to one device.

    `stage` belongs to one thread, `resize` to the one that owns the device; they may be the same.
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
        self._slots = Slots(make_lane(self._device))

    def stage(self, pictures: Sequence[NDArray[np.uint8]]) -> StagedPictures:
        """Pack `pictures` and begin to copy them; returns before that is done.

        The pictures are no longer needed when this returns.

        Args:
            pictures: (H, W, 3) uint8 RGB each, upright, any size from 1x1, one padded shape.

        Raises:
            ValueError: no picture, different shapes, or one that is no RGB picture.
        """
        plans: dict[tuple[int, ...], _Plan] = {}
        for picture in pictures:
            _check_picture(picture)
            if picture.shape not in plans:
                plans[picture.shape] = self._plan(picture.shape[0], picture.shape[1])
        padded_hws = {plan.padded_hw for plan in plans.values()}
        if len(padded_hws) != 1:
            raise ValueError(f"a batch has one shape, the pictures need {sorted(padded_hws)}")
        (padded_hw,) = padded_hws
        packed = PackedBatch(
            [plans[picture.shape].resampling(picture) for picture in pictures],
            padded_width=padded_hw[1],
            bicubic=self._task is TaskName.CLASSIFY,
        )
        slot = self._slots.take(packed.nbytes)
        packed.write(slot.array)
        slot.send()
        return StagedPictures((len(pictures), *padded_hw, 4), packed, slot)

    def resize(self, staged: StagedPictures, out: Tensor) -> None:
        """Resize and pad into `out`, on the current stream; returns before it is done.

        Args:
            out: `staged.shape` uint8 on the device, contiguous: RGBX, where X is 255 inside the
                picture; all four are 0 in the padding.

        Raises:
            ValueError: `out` does not fit the pictures.
        """
        self._check(staged, out)
        packed = staged.packed
        batch = packed.view(staged.slot.receive())
        if self._task is TaskName.CLASSIFY:
            resample_bicubic(
                batch,
                out,
                size=self._config.crop or self._config.short,
                max_lines=packed.max_lines,
                middle_pixels=packed.middle_pixels,
            )
        else:
            resample_bilinear(batch, out)
        staged.slot.release()

    def load(self, pictures: Sequence[NDArray[np.uint8]], out: Tensor) -> None:
        """`stage` and `resize`."""
        self.resize(self.stage(pictures), out)

    def _plan(self, height: int, width: int) -> "_Plan":
        resized_hw, padded_hw = network_hw(height, width, self._task, self._config)
        if self._task is TaskName.CLASSIFY:
            short = self._config.short
            return _plan_crop((height, width), short, self._config.crop or short, padded_hw)
        return _Plan(
            padded_hw,
            bilinear_taps(height, resized_hw[0], vertical=True),
            bilinear_taps(width, resized_hw[1], vertical=False),
        )

    def _check(self, staged: StagedPictures, out: Tensor) -> None:
        if tuple(out.shape) != staged.shape:
            raise ValueError(f"out is {tuple(out.shape)}, the pictures need {staged.shape}")
        if out.dtype != torch.uint8 or not out.is_contiguous() or out.device != self._device:
            raise ValueError(
                f"out must be contiguous uint8 on {self._device}, got {out.dtype}, "
                f"strides {out.stride()}, on {out.device}"
            )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What pictures of one size have in common."""

    padded_hw: tuple[int, int]
    rows: AxisTaps
    columns: AxisTaps
    vertical_first: bool = False

    def resampling(self, picture: NDArray[np.uint8]) -> Resampling:
        return Resampling(picture, self.rows, self.columns, self.vertical_first)


def _check_picture(picture: NDArray[np.uint8]) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"a picture is (H, W, 3) uint8, got {picture.shape} {picture.dtype}")


def _plan_crop(hw: tuple[int, int], short: int, crop: int, padded_hw: tuple[int, int]) -> _Plan:
    """The geometry of `model.resizing.resize_crop`."""
    new_hw = short_side_size(*hw, short)
    corner = crop_corner(new_hw, crop)
    if max(new_hw) <= EXTREME_ASPECT * short:
        rows, columns = (
            bicubic_taps(source, target, crop=(start, start + crop))
            for source, target, start in zip(hw, new_hw, corner, strict=True)
        )
        return _Plan(padded_hw, rows, columns, _vertical_first(hw, new_hw))
    rows, columns = (
        bicubic_taps(
            source, crop, box=(start * (source / target), (start + crop) * (source / target))
        )
        for source, target, start in zip(hw, new_hw, corner, strict=True)
    )
    return _Plan(padded_hw, rows, columns, _vertical_first(hw, (crop, crop)))


def _vertical_first(source_hw: tuple[int, int], target_hw: tuple[int, int]) -> bool:
    """Which pass Pillow's `resize` runs first; the two orders round differently.

    `ImagingResampleInner` since 13.0, the end of `Image.resize` in 12.3.
    """
    lost_h, lost_w = (source_hw[axis] - target_hw[axis] for axis in range(2))
    if _PILLOW_MAJOR >= 13:
        return lost_h > 0 and lost_h > 2 * lost_w
    return lost_h > 0 and source_hw[0] > 100 * source_hw[1]
