"""What CUDA raises, as the engine understands it."""

import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from service.engine.device import DeviceCrash, DeviceOutOfMemoryError

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")
# torch, cuBLAS and Triton, whose allocations do not all go through torch's allocator
_OUT_OF_MEMORY: Final = ("out of memory", "ALLOC_FAILED")
_CUDA_ERROR: Final = ("CUDA error", "Triton Error [CUDA]")


def run_on_gpu(function: Callable[[], ResultT]) -> ResultT:
    """Call `function` on the device thread.

    An error that leaves the GPU usable, such as a launch that was refused, is raised as it is:
    the batch is then repeated in halves.

    Raises:
        DeviceOutOfMemoryError: no memory; what torch kept in reserve has been given back.
        DeviceCrash: an error that every later call in this process would meet again.
    """
    import torch

    try:
        return function()
    except RuntimeError as exc:
        if not _is_out_of_memory(exc):
            _crash_if_sticky(exc)
            raise
        message = _first_line(exc)
        # the frames of the failed call hold its tensors; they must go before the reserve can
        for cause in _causes(exc):
            traceback.clear_frames(cause.__traceback__)
    log.warning("out of device memory", extra={"reason": message})
    torch.cuda.empty_cache()
    raise DeviceOutOfMemoryError(message)


def _first_line(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0]


def _causes(exc: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = exc
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _is_out_of_memory(exc: BaseException) -> bool:
    """Also while a graph is captured, where the end of the capture fails on top of it."""
    import torch

    return any(
        isinstance(cause, torch.OutOfMemoryError)
        or (isinstance(cause, RuntimeError) and any(text in str(cause) for text in _OUT_OF_MEMORY))
        for cause in _causes(exc)
    )


def _crash_if_sticky(exc: BaseException) -> None:
    if not any(_is_from_cuda(cause) for cause in _causes(exc)):
        return
    import torch

    try:
        # a broken context, and only that, answers every call with its error
        torch.cuda.synchronize()
    except Exception:  # noqa: BLE001 - however it fails, the device cannot be used
        raise DeviceCrash(_first_line(exc)) from exc


def _is_from_cuda(exc: BaseException) -> bool:
    import torch

    if isinstance(exc, torch.AcceleratorError):
        return True
    return isinstance(exc, RuntimeError) and any(text in str(exc) for text in _CUDA_ERROR)
