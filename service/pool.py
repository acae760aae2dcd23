"""Threads for work that would block the event loop: decoding, post-processing, encoding."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

ArgsT = TypeVarTuple("ArgsT")
ResultT = TypeVar("ResultT")


class CpuPool:
    """A fixed number of threads.

    Args:
        size: number of threads; None: one per core this process may use.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or len(os.sched_getaffinity(0))
        self._executor = ThreadPoolExecutor(self.size, thread_name_prefix="smserve-pool")

    async def run(self, function: Callable[[*ArgsT], ResultT], *args: *ArgsT) -> ResultT:
        """Call `function` on a thread; cancelling withdraws a call that has not begun."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    async def run_with(
        self, release: Callable[[], None], function: Callable[[*ArgsT], ResultT], *args: *ArgsT
    ) -> ResultT:
        """`run` for a function that uses something which somebody else gets afterwards.

        Args:
            release: called on the event loop when the call has failed or was cancelled, but not
                before the thread has let go.
        """
        call = self._executor.submit(function, *args)
        try:
            return await asyncio.wrap_future(call)
        except BaseException:
            if call.done():
                release()
            else:
                loop = asyncio.get_running_loop()
                call.add_done_callback(lambda _: loop.call_soon_threadsafe(release))
            raise

    def close(self) -> None:
        """Withdraw what has not begun; does not wait for what has."""
        self._executor.shutdown(wait=False, cancel_futures=True)
