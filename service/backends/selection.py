"""Which implementation computes, by the operator's wish and by what the machine has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.backends.base import Backend
from service.backends.torch_backend import TorchBackend, select_device
from service.backends.triton_backend import TritonBackend
from service.setting_groups import GpuSettings
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
        SettingsError: `triton` without a GPU that it can use.
        UnsupportedGPUError: `auto` and a GPU that `triton` cannot use.
        ValueError: a GPU was asked for and there is none.
    """
    from model.compiled.errors import UnsupportedGPUError, check_gpu

    if kind == "triton":
        wanted = "cpu" if device == "cpu" else "cuda:0"
        try:
            check_gpu(wanted)
        except UnsupportedGPUError as exc:
            raise SettingsError(f"backend triton cannot be used: {exc}") from exc
        return Selection("triton", wanted)
    found = select_device(device)
    if kind == "torch" or found == "cpu":
        return Selection("torch", found)
    check_gpu(found)
    return Selection("triton", found)


def open_backend(
    path: Path, selection: Selection, *, gpu: GpuSettings, batch_images: int
) -> Backend:
    """Load a model file.

    Args:
        gpu: used by `triton` alone.
        batch_images: no batch has more.

    Raises:
        CheckpointError: an unusable model file.
    """
    if selection.kind == "triton":
        return TritonBackend.open(path, device=selection.device, gpu=gpu, batch_images=batch_images)
    return TorchBackend.open(path, device=selection.device)
