"""Compiling many Triton kernels at a time.

A launch compiles its kernel and waits for it, so a network's first run compiles one kernel after
the other: a minute for all batch sizes of a classifier.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import triton
from triton.runtime.jit import JITFunction

# `JITFunction.run` belongs to all threads of the process
_lock: Final = threading.Lock()


@contextmanager
def compiled_side_by_side() -> Iterator[None]:
    """Inside, this thread's launches compile and do nothing else; at the end all kernels are there.

    So what runs inside must not depend on what kernels compute. Other threads launch as always. A
    kernel that does not compile says so at its first real launch.
    """
    with _lock:
        launch, own = JITFunction.run, threading.get_ident()

        def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            only = warmup or threading.get_ident() == own
            return launch(self, *args, grid=grid, warmup=only, **options)

        JITFunction.run = compile_only
        try:
            with (
                ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
                triton.AsyncCompileMode(pool, ignore_errors=True),
            ):
                yield
        finally:
            JITFunction.run = launch
