"""Which implementation computes, by the operator's wish and by what the machine has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.backends.base import Backend
from service.backends.torch_backend import TorchBackend, select_device
from service.backends.triton_backend import TritonBackend, TritonOptions
from service.settings import SettingsError


@dataclass(frozen=True, slots=True)
class Selection:
    """What computes, and where (`cpu` or `cuda:0`)."""

    kind: Literal["torch", "triton"]
    device: str


def select_backend(kind: Literal["auto", "torch", "triton"], device: str) -> Selection:
    """`auto` takes `triton` on a GPU and `torch` on the CPU; nothing falls back in silence.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        SettingsError: `triton` without a GPU.
        ValueError: a GPU was asked for and there is none.
        UnsupportedGPUError: there is a GPU that `triton` cannot use.
    """
    found = select_device(device)
    if kind == "torch" or (kind == "auto" and found == "cpu"):
        return Selection("torch", found)
    if found == "cpu":
        raise SettingsError(
            f"backend triton needs an NVIDIA GPU, found {_what_was_found(device)}; "
            "use backend auto or torch"
        )
    from model.compiled.predictor import check_gpu

    check_gpu(found)
    return Selection("triton", found)


def open_backend(path: Path, selection: Selection, options: TritonOptions) -> Backend:
    """Load a model file.

    Args:
        options: used by `triton` alone.

    Raises:
        CheckpointError: an unusable model file.
    """
    if selection.kind == "triton":
        return TritonBackend.open(path, device=selection.device, options=options)
    return TorchBackend.open(path, device=selection.device)


def _what_was_found(device: str) -> str:
    import torch

    if device == "cpu":
        return "the setting device cpu"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__}, which was built without CUDA"
    return f"no CUDA device (PyTorch {torch.__version__}, built for CUDA {torch.version.cuda})"
