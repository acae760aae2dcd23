"""One picture between the CPU pool and the device thread, in either of two forms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.compiled.staging import PictureStager, network_hw
from model.config import ModelSpec
from model.predictor import TASKS
from model.resizing import normalise


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """One picture on its way to the device.

    Attributes:
        pixels: (h, w, 3) uint8 at the original size; with exact preprocessing (H, W, 4) on the
            CPU in the model's dtype, normalised and padded, the fourth channel zero.
        shape: height and width of the network's input; only equal shapes share a batch.
        resized_hw: height and width before padding.
        original_hw: height and width of the upright original picture.
    """

    pixels: NDArray[np.uint8] | Tensor
    shape: tuple[int, int]
    resized_hw: tuple[int, int]
    original_hw: tuple[int, int]


class Pictures(Protocol):
    """How pictures are prepared and how they reach a graph's input.

    Attributes:
        dtype: of the graph's input.
    """

    dtype: torch.dtype

    def prepare(self, rgb: NDArray[np.uint8]) -> PreparedPicture:
        """(h, w, 3) uint8, upright; thread-safe."""
        ...

    def load(self, batch: Sequence[PreparedPicture], out: Tensor) -> None:
        """Into `out` (B, H, W, 4) of `dtype` on the device; returns before it is done."""
        ...


class FastPictures:
    """Original pixels travel; the device resizes. See `PictureStager`."""

    dtype = torch.uint8

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self._spec = spec
        self._stager = PictureStager(device, spec.task, spec.input)

    def prepare(self, rgb: NDArray[np.uint8]) -> PreparedPicture:
        resized_hw, padded_hw = network_hw(
            rgb.shape[0], rgb.shape[1], self._spec.task, self._spec.input
        )
        return PreparedPicture(rgb, padded_hw, resized_hw, (rgb.shape[0], rgb.shape[1]))

    def load(self, batch: Sequence[PreparedPicture], out: Tensor) -> None:
        self._stager.load([cast("NDArray[np.uint8]", own.pixels) for own in batch], out)


class ExactPictures:
    """The CPU resizes and normalises, in float32; values in the model's dtype travel."""

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._spec = spec
        self._pinned = device.type == "cuda"

    def prepare(self, rgb: NDArray[np.uint8]) -> PreparedPicture:
        resized = TASKS[self._spec.task].resize(rgb, self._spec.input)
        normalised = normalise(resized, self._spec.input)
        return PreparedPicture(
            pixels=normalised_rows(normalised, self.dtype),
            shape=(normalised.shape[1], normalised.shape[2]),
            resized_hw=(resized.shape[0], resized.shape[1]),
            original_hw=(rgb.shape[0], rgb.shape[1]),
        )

    def load(self, batch: Sequence[PreparedPicture], out: Tensor) -> None:
        # torch takes a pinned block back only after the copies out of it are done
        host = torch.empty(out.shape, dtype=out.dtype, pin_memory=self._pinned)
        torch.stack([cast("Tensor", own.pixels) for own in batch], out=host)
        out.copy_(host, non_blocking=True)


def normalised_rows(images: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., 3, H, W) normalised -> (..., H, W, 4) of `dtype`, the fourth channel zero."""
    return F.pad(images.movedim(-3, -1), (0, 1)).to(dtype).contiguous()
