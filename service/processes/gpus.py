"""Which GPUs there are, without starting CUDA in this process."""

import os
from typing import Any, Final

import pynvml

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    chosen = os.environ.get(VISIBLE)  # noqa: TID251 - CUDA's own variable, no setting of ours
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))
    try:
        pynvml.nvmlInit()
        return tuple(str(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()


def driver_handle(gpu: str) -> Any:
    """The driver's own object for a GPU, named as `visible_gpus` does.

    Raises:
        pynvml.NVMLError: there is no driver, or no such GPU.
    """
    pynvml.nvmlInit()
    if gpu.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(gpu))
    return pynvml.nvmlDeviceGetHandleByUUID(gpu)


def memory_bytes(gpu: str) -> int | None:
    """All memory of a GPU, named as `visible_gpus` does; None: the driver does not say."""
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(driver_handle(gpu)).total)
    except pynvml.NVMLError:
        return None


def use_only(gpu: str) -> None:
    """Let this process see one GPU, as `cuda:0`; before torch is imported."""
    os.environ[VISIBLE] = gpu  # noqa: TID251 - CUDA's own variable, no setting of ours
