"""The real thing: a `model.predictor.Predictor` behind the backend interface.

Torch is imported when a model is opened, so that the HTTP side loads without it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.config import ModelSpec
from model.results import Params, Result
from service.backends.base import Finishing, HeldBatch
from service.backends.cuda_errors import run_on_gpu

if TYPE_CHECKING:
    from model.evaluation.multi_scale import MultiScaleSegmenter
    from model.predictor import Predictor


class TorchBackend:
    """PyTorch on the CPU or on one GPU."""

    kind = "torch"
    prepares_at_once = False
    finishing = Finishing.SPREAD

    def __init__(
        self,
        predictor: "Predictor | MultiScaleSegmenter",
        *,
        device: str,
        sha256: str | None,
    ) -> None:
        self._predictor = predictor
        self.spec: ModelSpec = predictor.spec
        self.device = device
        self.dtype = "float32"
        self.sha256 = sha256

    @classmethod
    def open(cls, path: Path, *, device: str) -> "TorchBackend":
        """Load a model file.

        Raises:
            CheckpointError: the file cannot be read or does not fit its own description.
        """
        from model.predictor import Predictor

        sha256 = file_sha256(path)
        return cls(Predictor.load(path, device=device), device=device, sha256=sha256)

    def prepare(self, rgb: NDArray[np.uint8]) -> Any:
        return self._predictor.prepare(rgb)

    def stage(self, batch: Sequence[Any], params: Sequence[Params]) -> HeldBatch:
        return HeldBatch(batch, params)

    def infer(self, staged: HeldBatch) -> list[Any]:
        if self.device == "cpu":
            return self._predictor.infer(staged.images, staged.params)
        return run_on_gpu(lambda: self._predictor.infer(staged.images, staged.params))

    def finish(self, raw: Any, prepared: Any) -> Result:
        return self._predictor.finish(raw, prepared)


def file_sha256(path: Path) -> str:
    """Hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def select_device(wanted: str) -> str:
    """`auto` -> `cuda:0` or `cpu`.

    Raises:
        ValueError: a GPU was asked for and there is none.
    """
    import torch

    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda:0"
    if wanted == "cuda":
        raise ValueError("device is cuda, but torch finds no CUDA device; use auto or cpu")
    return "cpu"


def limit_threads(num_threads: int | None) -> None:
    """CPU threads of one operation; None leaves torch's own choice."""
    import torch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
