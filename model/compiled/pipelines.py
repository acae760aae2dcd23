"""What surrounds the captured part of each task: its inputs, and its outputs' way to the host.

Detection has its own file, `model.compiled.detect_pipeline`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.classifier import Classifier
from model.compiled.classifier import CompiledClassifier
from model.compiled.label_maps import label_maps_on_host
from model.compiled.pictures import PreparedPicture
from model.compiled.segmenter import CompiledSegmenter
from model.compiled.transfer import to_host
from model.config import InputConfig
from model.results import Classification, Params, Result, Segmentation
from model.upernet import Segmenter

InputsT = TypeVar("InputsT")
OutputsT = TypeVar("OutputsT")


@dataclass(frozen=True, slots=True)
class Choice:
    """What requests ask for that changes the launches; detection only.

    Attributes:
        capacity: rows of the answer per image, 0 for other tasks.
        with_masks: whether mask logits are made.
    """

    capacity: int = 0
    with_masks: bool = False


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a captured graph fixes.

    Attributes:
        batch: rows of its input.
        hw: height and width of its input.
        pixels: dtype of its input, uint8 or the model's.
        choice: of the requests.
    """

    batch: int
    hw: tuple[int, int]
    pixels: torch.dtype
    choice: Choice


class Pipeline(Protocol[InputsT, OutputsT]):
    """One task on the device; all methods but `finish` belong to the thread that owns it."""

    def choose(self, params: Sequence[Params]) -> Choice:
        """The graph that serves all of these.

        Raises:
            TypeError: parameters of another task.
        """
        ...

    def inputs(self, pictures: Tensor, choice: Choice) -> InputsT:
        """Static inputs around (B, H, W, 4) `pictures`, which are kept, not copied."""
        ...

    def pictures(self, inputs: InputsT) -> Tensor:
        """Those of `inputs`."""
        ...

    def control(
        self, inputs: InputsT, batch: Sequence[PreparedPicture], params: Sequence[Params]
    ) -> None:
        """Bring what differs between requests to the device; fewer than B images are fine."""
        ...

    def features(self, pictures: Tensor) -> object:
        """As much of the network as runs the same whatever the pictures show."""
        ...

    def run(self, inputs: InputsT) -> OutputsT:
        """The captured part."""
        ...

    def collect(
        self,
        inputs: InputsT,
        outputs: OutputsT,
        batch: Sequence[PreparedPicture],
        params: Sequence[Params],
    ) -> list[Any]:
        """Post-process the first rows, wait for the device -> raw results on the host."""
        ...

    def finish(self, raw: Any, prepared: PreparedPicture) -> Result:
        """Raw result of one image -> answer; thread-safe."""
        ...


class _PicturesOnly(Generic[OutputsT]):
    """Tasks without parameters: the pictures are all that goes in."""

    def choose(self, params: Sequence[Params]) -> Choice:
        return Choice()

    def inputs(self, pictures: Tensor, choice: Choice) -> Tensor:
        return pictures

    def pictures(self, inputs: Tensor) -> Tensor:
        return inputs

    def control(
        self, inputs: Tensor, batch: Sequence[PreparedPicture], params: Sequence[Params]
    ) -> None:
        """Nothing differs between requests."""


class ClassifyPipeline(_PicturesOnly[Tensor]):
    """Raw results are (num_classes,) float32 probabilities."""

    def __init__(
        self, network: Classifier, config: InputConfig, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._model = CompiledClassifier(network, config, dtype=dtype, device=device)

    def features(self, pictures: Tensor) -> Tensor:
        return self._model(pictures)

    def run(self, inputs: Tensor) -> Tensor:
        """(B, H, W, 4) -> (B, num_classes) float32."""
        return self._model(inputs)

    def collect(
        self,
        inputs: Tensor,
        outputs: Tensor,
        batch: Sequence[PreparedPicture],
        params: Sequence[Params],
    ) -> list[Tensor]:
        (logits,) = to_host([outputs[: len(batch)]])
        # of all at once: picture by picture it would cost the threads that answer far more
        return list(logits.softmax(dim=1))

    def finish(self, raw: Tensor, prepared: PreparedPicture) -> Classification:
        return Classification(probabilities=raw.numpy())


class SegmentPipeline(_PicturesOnly[Tensor]):
    """Raw results are class maps at the size of the original pictures."""

    def __init__(
        self, network: Segmenter, config: InputConfig, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Lay out the weights.

        Raises:
            ValueError: padded inputs, whose pictures could have different resized sizes.
        """
        if config.pad_multiple != 1:
            raise ValueError(f"segmentation does not pad, got pad_multiple={config.pad_multiple}")
        self._model = CompiledSegmenter(network, config, dtype=dtype, device=device)

    def features(self, pictures: Tensor) -> Tensor:
        return self._model(pictures)

    def run(self, inputs: Tensor) -> Tensor:
        """(B, H, W, 4) -> (B, h, w, num_classes) logits."""
        return self._model(inputs)

    def collect(
        self,
        inputs: Tensor,
        outputs: Tensor,
        batch: Sequence[PreparedPicture],
        params: Sequence[Params],
    ) -> list[NDArray[np.uint8]]:
        original_hws = [own.original_hw for own in batch]
        return label_maps_on_host(outputs[: len(batch)], batch[0].shape, original_hws)

    def finish(self, raw: NDArray[np.uint8], prepared: PreparedPicture) -> Segmentation:
        return Segmentation(label_map=raw)
