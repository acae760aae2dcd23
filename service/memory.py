"""The process's memory: what the C library and oneDNN may keep."""

import ctypes
import os
from typing import Final

# malloc.h of glibc
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MIB: Final = 1 << 20
# a forward pass of the largest model has fewer distinct operations than this
_ONEDNN_CACHE: Final = "128"


def bound_memory() -> None:
    """Keep what pictures of ever new sizes leave behind small; before torch is imported.

    - oneDNN keeps compiled code and buffers for each (operation, shape), 1024 by default. Every
      size of picture adds its own, over hundreds of MiB. An operator's own choice stands.
    - Two heaps for all threads, so that one reuses what another has freed. Otherwise every thread
      keeps the memory of the largest picture it has ever seen.
    - Blocks from 4 MiB on go back to the system when they are freed. Otherwise glibc raises this
      limit to 32 MiB by itself, and tensors of ever new sizes tear holes into the heaps. The
      price is some throughput under load (docs/decisions/0005).

    Other C libraries than glibc do not know these calls, nor need them.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _ONEDNN_CACHE)  # noqa: TID251 - for oneDNN
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, 4 * _MIB)
        mallopt(_M_TRIM_THRESHOLD, 64 * _MIB)
