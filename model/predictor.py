"""One model, three steps: prepare (CPU pool), infer (device thread), finish (CPU pool)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernels import FUSED, KernelOps
from model.checkpoint import load_network
from model.config import InputConfig, ModelSpec, TaskName
from model.inference import optimise_for_inference
from model.resizing import normalise
from model.results import Params, Result
from model.tasks.classify import ClassifyTask
from model.tasks.detect import DetectTask
from model.tasks.segment import SegmentTask


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image as the network sees it.

    Attributes:
        pixels: (3, H, W) float32 on the CPU, normalised, padded.
        resized_hw: height and width before padding.
        original_hw: height and width of the upright original image.
    """

    pixels: Tensor
    resized_hw: tuple[int, int]
    original_hw: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's input; only equal shapes share a batch."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])


class Task(Protocol):
    """Pure functions around one kind of network."""

    def resize(self, rgb: NDArray[np.uint8], config: InputConfig) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 at the original size -> at the network's size, before padding."""
        ...

    def infer(
        self,
        network: nn.Module,
        images: Tensor,
        batch: Sequence[Prepared],
        params: Sequence[Params],
    ) -> list[Any]:
        """(B, 3, H, W) on the device -> per image an opaque raw result on the CPU."""
        ...

    def finish(self, raw: Any, prepared: Prepared) -> Result:
        """Raw result -> answer in the coordinates of the original image."""
        ...


TASKS: dict[TaskName, Task] = {
    TaskName.CLASSIFY: ClassifyTask(),
    TaskName.DETECT: DetectTask(),
    TaskName.SEGMENT: SegmentTask(),
}


class Predictor:
    """A loaded model.

    `prepare` and `finish` are thread-safe; `infer` belongs to the one thread that owns the device.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec, *, device: str = "cpu") -> None:
        self.spec = spec
        self.device = device
        self._network = optimise_for_inference(network).to(device)
        self._task = TASKS[spec.task]

    @classmethod
    def load(cls, path: Path, *, device: str = "cpu", ops: KernelOps = FUSED) -> "Predictor":
        """Open a model file.

        Raises:
            CheckpointError: the file cannot be read or its weights do not fit.
        """
        network, spec = load_network(path, ops=ops)
        return cls(network, spec, device=device)

    def prepare(self, rgb: NDArray[np.uint8]) -> Prepared:
        """Resize, crop or pad, and normalise one image.

        Args:
            rgb: (H, W, 3) uint8, upright; any size from 1x1.
        """
        resized = self._task.resize(rgb, self.spec.input)
        return Prepared(
            pixels=normalise(resized, self.spec.input),
            resized_hw=(resized.shape[0], resized.shape[1]),
            original_hw=(rgb.shape[0], rgb.shape[1]),
        )

    @torch.inference_mode()
    def infer(self, batch: Sequence[Prepared], params: Sequence[Params]) -> list[Any]:
        """Run the network on images of one shape.

        Returns:
            one opaque raw result per image, on the CPU.

        Raises:
            ValueError: empty batch, different shapes, or another number of params.
        """
        shapes = {prepared.shape for prepared in batch}
        if len(shapes) != 1 or len(params) != len(batch):
            raise ValueError(
                f"a batch needs one shape and one params per image, got shapes {sorted(shapes)}, "
                f"{len(batch)} images, {len(params)} params"
            )
        images = torch.stack([prepared.pixels for prepared in batch]).to(self.device)
        images = images.contiguous(memory_format=torch.channels_last)
        return self._task.infer(self._network, images, batch, params)

    @torch.inference_mode()
    def finish(self, raw: Any, prepared: Prepared) -> Result:
        """Raw result of one image -> answer at the size of the original image."""
        return self._task.finish(raw, prepared)
