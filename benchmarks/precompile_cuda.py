"""What `benchmarks.precompile` does for kernels in CUDA C++: note what a H100 loads, compile it.

A kernel is found where NVRTC has the same version; the plans of how work is shared out are those of
the H100 with 132 multiprocessors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Final
from unittest.mock import patch

import torch

from kernels import nvrtc

CAPABILITY: Final = (9, 0)
_H100: Final = SimpleNamespace(
    major=CAPABILITY[0],
    minor=CAPABILITY[1],
    multi_processor_count=132,
    shared_memory_per_block_optin=232448,
)


@dataclass(frozen=True, slots=True)
class CudaSource:
    """What `nvrtc.load_kernel` is asked for."""

    path: Path
    name: str
    defines: tuple[tuple[str, int], ...]


class _Unlaunched:
    def launch(self, *_arguments: object) -> None:
        pass


@contextmanager
def loads_noted(found: dict[CudaSource, None]) -> Iterator[None]:
    """Inside, maps on `meta` are a H100's; a CUDA kernel is noted, in order, and not launched."""

    def note(
        source: Path, name: str, defines: tuple[tuple[str, int], ...], _device: torch.device
    ) -> _Unlaunched:
        found[CudaSource(source, name, defines)] = None
        return _Unlaunched()

    def can_serve(x: torch.Tensor) -> bool:
        return nvrtc.is_available() and x.dtype in nvrtc.HALVES

    with (
        patch.object(nvrtc, "can_serve", can_serve),
        patch.object(nvrtc, "load_kernel", note),
        patch.object(nvrtc, "TensorMap", lambda *_arguments: None),
        patch.object(torch.cuda, "get_device_properties", lambda _device: _H100),
    ):
        yield


def compile_cuda(source: CudaSource) -> tuple[str, bool, str]:
    """Into Triton's cache -> name, whether it was there already, why it failed."""
    architecture = nvrtc.architecture_of(CAPABILITY)
    was_there = nvrtc.is_kept(source.path, source.defines, architecture)
    try:
        nvrtc.compile_source(source.path, source.defines, architecture)
    except nvrtc.CudaError as exc:
        return source.name, False, str(exc)[-300:]
    return source.name, was_there, ""
