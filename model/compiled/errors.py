"""What can keep the compiled models from running. Imports neither Triton nor CUDA."""

from importlib import import_module
from typing import Final

import torch

# mma instructions for half precision and asynchronous copies: Ampere and later
NEEDED_CAPABILITY: Final = (8, 0)
_INSTEAD: Final = "backend=torch works without it"


class UnsupportedGPUError(RuntimeError):
    """The compiled models cannot run here; the message says what was found and what is needed."""


class GraphCaptureError(RuntimeError):
    """A batch could not be recorded, most often for lack of memory: its cause has the details."""


def check_gpu(device: torch.device | str) -> None:
    """Find out whether the compiled models run on a device, before any is loaded.

    Raises:
        UnsupportedGPUError: no CUDA device of compute capability 8.0 or later, or no Triton.
    """
    needed = (
        "the compiled models need an NVIDIA GPU of compute capability "
        f"{_dotted(NEEDED_CAPABILITY)} or later, CUDA and Triton; {_INSTEAD}"
    )
    if torch.device(device).type != "cuda":
        raise UnsupportedGPUError(f"the device is {device}; {needed}")
    if not torch.cuda.is_available():
        raise UnsupportedGPUError(
            f"torch {torch.__version__} (built for CUDA {torch.version.cuda}) finds no CUDA "
            f"device; {needed}"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < NEEDED_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise UnsupportedGPUError(
            f"{device} is {name} with compute capability {_dotted(capability)}; {needed}"
        )
    try:
        import_module("triton")
    except ImportError as exc:
        raise UnsupportedGPUError(f"Triton cannot be imported ({exc}); {needed}") from exc


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
