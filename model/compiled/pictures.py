"""One picture between the CPU pool and the device thread, in either of two forms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.compiled.slots import Slot, Slots, make_lane
from model.compiled.staging import PictureStager, StagedPictures, network_hw
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


StagedT = TypeVar("StagedT")


class Pictures(Protocol[StagedT]):
    """How pictures are prepared and how they reach a graph's input.

    Attributes:
        dtype: of the graph's input.
    """

    dtype: torch.dtype

    def prepare(self, rgb: NDArray[np.uint8]) -> PreparedPicture:
        """(h, w, 3) uint8, upright; thread-safe."""
        ...

    def stage(self, batch: Sequence[PreparedPicture]) -> StagedT:
        """Begin to copy pictures of one shape; one thread only, not always that of `load`."""
        ...

    def load(self, staged: StagedT, out: Tensor) -> None:
        """Into `out` (B, H, W, 4) of `dtype` on the device, once; returns before it is done."""
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

    def stage(self, batch: Sequence[PreparedPicture]) -> StagedPictures:
        return self._stager.stage([cast("NDArray[np.uint8]", own.pixels) for own in batch])

    def load(self, staged: StagedPictures, out: Tensor) -> None:
        self._stager.resize(staged, out)


class ExactPictures:
    """The CPU resizes and normalises, in float32; values in the model's dtype travel."""

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._spec = spec
        self._slots = Slots(make_lane(device))

    def prepare(self, rgb: NDArray[np.uint8]) -> PreparedPicture:
        resized = TASKS[self._spec.task].resize(rgb, self._spec.input)
        normalised = normalise(resized, self._spec.input)
        return PreparedPicture(
            pixels=normalised_rows(normalised, self.dtype),
            shape=(normalised.shape[1], normalised.shape[2]),
            resized_hw=(resized.shape[0], resized.shape[1]),
            original_hw=(rgb.shape[0], rgb.shape[1]),
        )

    def stage(self, batch: Sequence[PreparedPicture]) -> Slot:
        pixels = [cast("Tensor", own.pixels) for own in batch]
        slot = self._slots.take(sum(own.nbytes for own in pixels))
        host = slot.host.view(self.dtype).view(len(pixels), *pixels[0].shape)
        torch.stack(pixels, out=host)
        slot.send()
        return slot

    def load(self, staged: Slot, out: Tensor) -> None:
        out.copy_(staged.receive().view(self.dtype).view(out.shape))
        staged.release()


def normalised_rows(images: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., 3, H, W) normalised -> (..., H, W, 4) of `dtype`, the fourth channel zero."""
    return F.pad(images.movedim(-3, -1), (0, 1)).to(dtype).contiguous()
