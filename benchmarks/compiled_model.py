"""Everything the benchmarks know about our compiled model: one function a fact."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.bench_cpu import make_spec
from model.checkpoint import build_network
from model.config import ModelSpec, TaskName
from model.results import DEFAULT_PARAMS, DetectParams, Params

# batch sizes that are captured when a server starts
DEFAULT_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
# random weights find nothing above the usual threshold; without one, 100 objects get masks
PARAMS: Final[dict[TaskName, Params]] = {
    **DEFAULT_PARAMS,
    TaskName.DETECT: DetectParams(score_threshold=0.0),
}


class CompiledModel(Protocol):
    """What the benchmarks use of `model.compiled.predictor.CompiledPredictor`."""

    spec: ModelSpec
    dtype: torch.dtype

    def forward_resident(self, images_rgbx: Tensor) -> Any:
        """(B, H, W, 4) uint8 on the device -> the task's answer on the device."""
        ...

    def prepare(self, rgb: NDArray[np.uint8]) -> Any:
        """(h, w, 3) uint8 -> one image as the network sees it, on the host."""
        ...

    def infer(self, batch: Sequence[Any], params: Sequence[Params]) -> list[Any]:
        """Copies in, network, copies out: one raw result per image, on the host."""
        ...

    def warm_up(self, batch_sizes: Sequence[int], shapes: Sequence[tuple[int, int]]) -> object:
        """Compile and capture all of these."""
        ...


def build_compiled(task: TaskName, variant: str, hw: tuple[int, int], device: str) -> CompiledModel:
    """A model with random weights; classification is cut to `hw`, which is square."""
    from model.compiled.predictor import CompiledPredictor

    torch.manual_seed(0)
    spec = make_spec(task, variant)
    if task is TaskName.CLASSIFY:
        spec = replace(spec, input=replace(spec.input, short=hw[0] * 8 // 7, crop=hw[0]))
    predictor: CompiledModel = CompiledPredictor(build_network(spec), spec, device=device)
    return predictor


def forward_resident(predictor: CompiledModel, images_rgbx: Tensor) -> Any:
    """The captured graph of this shape, input and output on the device.

    Segmentation goes on to class maps of the input's size; they are made outside the graph, since
    photographs of one shape may come from originals of many.
    """
    answer = predictor.forward_resident(images_rgbx)
    if predictor.spec.task is TaskName.SEGMENT:
        from kernels.label_map.triton_fwd import label_maps

        hw = (images_rgbx.shape[1], images_rgbx.shape[2])
        return label_maps(answer, hw, [hw] * images_rgbx.shape[0])
    return answer


def forward_ungraphed(predictor: CompiledModel, images_rgbx: Tensor) -> Any:
    """The same kernels launched one by one: their memory and names are seen only like this."""
    return predictor.forward_ungraphed(images_rgbx)  # type: ignore[attr-defined]


def backbone_of(predictor: CompiledModel) -> Any:
    """The `CompiledBackbone` of a classifier."""
    return predictor._pipeline._model._backbone  # type: ignore[attr-defined]


def random_pixels(batch: int, hw: tuple[int, int], device: str) -> Tensor:
    """(B, H, W, 4) uint8 on the device: RGB and a byte that is ignored."""
    generator = torch.Generator(device).manual_seed(0)
    size = (batch, *hw, 4)
    return torch.randint(0, 256, size, dtype=torch.uint8, device=device, generator=generator)


def random_picture(task: TaskName, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 on the host whose network input has the size `hw`.

    Classification gets a photograph's usual 640 x 427; detection's width is eleven pixels short,
    which its padding to a multiple of 32 fills.
    """
    h, w = {
        TaskName.CLASSIFY: (427, 640),
        TaskName.DETECT: (hw[0], hw[1] - 11),
        TaskName.SEGMENT: hw,
    }[task]
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
