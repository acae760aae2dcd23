"""One division of a multiprocessor's memory for all kernels that a single picture runs through.

First-level cache and shared memory are parts of the same memory. A multiprocessor can move the
border only while it is empty, so kernels that prefer different borders cannot overlap and lose
time at every change. By default a kernel with little shared memory prefers a large cache, and one
with much the opposite.
"""

from typing import Any, Final, TypeVar

import triton

from kernels import nvrtc

KernelT = TypeVar("KernelT")

_preferring: Final[set[str]] = set()


def prefer_shared(kernel: KernelT) -> KernelT:
    """Decorates a Triton kernel that always runs with the largest shared memory."""
    _preferring.add(kernel.__name__)  # type: ignore[attr-defined]
    return kernel


def _set_preference(_module: Any, function: int, name: str, _metadata: Any, _hash: str) -> None:
    if name in _preferring:
        nvrtc.prefer_shared_memory(function)


triton.knobs.runtime.kernel_load_end_hook.add(_set_preference)
