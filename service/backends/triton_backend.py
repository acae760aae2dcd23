"""The model compiled for one GPU: a `model.compiled.predictor.CompiledPredictor`.

Torch and Triton are imported when a model is opened, so that the HTTP side loads without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.config import ModelSpec, TaskName
from model.results import Params, Result
from service.backends.base import Finishing
from service.backends.cuda_errors import run_on_gpu
from service.backends.torch_backend import file_sha256
from service.setting_groups import GpuSettings

if TYPE_CHECKING:
    from model.compiled.predictor import CompiledPredictor, StagedBatch


@dataclass(frozen=True, slots=True)
class _Unstaged:
    error: RuntimeError


class TritonBackend:
    """Kernels of our own in CUDA graphs, one per batch size and shape.

    Attributes:
        warm_up_batches: batch sizes to warm up, the largest first, so that a GPU with too little
            memory is noticed at once.
    """

    kind = "triton"

    def __init__(
        self,
        predictor: "CompiledPredictor",
        *,
        device: str,
        sha256: str | None,
        prepares_at_once: bool,
        warm_up_batches: Sequence[int],
    ) -> None:
        self._predictor = predictor
        self.spec: ModelSpec = predictor.spec
        self.device = device
        self.dtype = str(predictor.dtype).removeprefix("torch.")
        self.sha256 = sha256
        self.prepares_at_once = prepares_at_once
        is_small = predictor.spec.task is TaskName.CLASSIFY
        self.finishing = Finishing.AT_ONCE if is_small else Finishing.TOGETHER
        self.warm_up_batches = tuple(sorted(warm_up_batches, reverse=True))

    @classmethod
    def open(
        cls, path: Path, *, device: str, gpu: GpuSettings, batch_images: int
    ) -> "TritonBackend":
        """Load a model file.

        Args:
            batch_images: no batch has more.

        Raises:
            CheckpointError: the file cannot be read or does not fit its own description.
        """
        import torch

        from model.compiled.predictor import CompiledPredictor, CompileOptions

        buckets = batch_buckets(gpu.warm_up_batches, batch_images)
        predictor = CompiledPredictor.load(
            path,
            device=device,
            options=CompileOptions(
                dtype=getattr(torch, gpu.precision),
                preprocessing=gpu.preprocessing,
                max_graphs=gpu.max_graphs,
                batch_buckets=buckets,
            ),
        )
        return cls(
            predictor,
            device=device,
            sha256=file_sha256(path),
            prepares_at_once=gpu.preprocessing == "fast",
            warm_up_batches=buckets,
        )

    @property
    def graph_count(self) -> int:
        """CUDA graphs held now."""
        return self._predictor.graph_count

    def warm_up(self, batch_size: int) -> None:
        """Compile and capture what batches of this size need; device thread only.

        Raises:
            RuntimeError: it could not be captured.
        """
        run_on_gpu(lambda: self._warm_up(batch_size))

    def _warm_up(self, batch_size: int) -> None:
        report = self._predictor.warm_up(batch_sizes=(batch_size,))
        if report.failures:
            raise RuntimeError("; ".join(reason for _, reason in report.failures))

    def prepare(self, rgb: NDArray[np.uint8]) -> Any:
        return self._predictor.prepare(rgb)

    def stage(self, batch: Sequence[Any], params: Sequence[Params]) -> "StagedBatch | _Unstaged":
        """What fails is raised by `infer`.

        The cause can be found on the device thread only: to ask the whole device while that thread
        captures a graph would spoil the capture.
        """
        try:
            return self._predictor.stage(batch, params)
        except RuntimeError as exc:
            return _Unstaged(exc)

    def infer(self, staged: "StagedBatch | _Unstaged") -> list[Any]:
        return run_on_gpu(lambda: self._infer(staged))

    def _infer(self, staged: "StagedBatch | _Unstaged") -> list[Any]:
        if isinstance(staged, _Unstaged):
            raise staged.error
        return self._predictor.infer_staged(staged)

    def finish(self, raw: Any, prepared: Any) -> Result:
        return self._predictor.finish(raw, prepared)


def batch_buckets(sizes: Sequence[int], most_images: int) -> tuple[int, ...]:
    """Those of `sizes` that a batch of at most `most_images` can have; at least the smallest."""
    return tuple(size for size in sizes if size <= most_images) or (min(sizes),)
