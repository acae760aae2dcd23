"""Threads for work that would block the event loop: decoding, post-processing, encoding."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, TypeVarTuple

from service.cores import usable_cores

ArgsT = TypeVarTuple("ArgsT")
ResultT = TypeVar("ResultT")


class CpuPool:
    """A fixed number of threads.

    Args:
        size: number of threads; None: one per core, see `service.cores`.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or usable_cores()
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


class PooledCalls:
    """Calls that come together go to the pool together: a hand-over costs more than a short call.

    Those that are made before the event loop's next turn go to one thread, or are shared out among
    all of them.
    """

    def __init__(self, pool: CpuPool) -> None:
        self._pool = pool
        self._calls: dict[bool, list[tuple[Callable[[], Any], asyncio.Future[Any]]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, function: Callable[[], ResultT], *, spread: bool) -> ResultT:
        """Call `function` on a thread; cancelling does not withdraw it.

        Args:
            spread: among all threads; otherwise one makes all the calls.
        """
        loop = asyncio.get_running_loop()
        if spread not in self._calls:
            self._calls[spread] = []
            loop.call_soon(self._hand_over, spread)
        future: asyncio.Future[ResultT] = loop.create_future()
        self._calls[spread].append((function, future))
        return await future

    def _hand_over(self, spread: bool) -> None:
        calls = self._calls.pop(spread)
        share = -(-len(calls) // self._pool.size) if spread else len(calls)
        for start in range(0, len(calls), share):
            task = asyncio.create_task(self._run(calls[start : start + share]))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, calls: Sequence[tuple[Callable[[], Any], "asyncio.Future[Any]"]]) -> None:
        try:
            outcomes = await self._pool.run(_outcomes, [function for function, _ in calls])
        except Exception as exc:  # noqa: BLE001 - a pool that is closed; nobody may wait for it
            outcomes = [(None, exc)] * len(calls)
        for (_, future), (result, error) in zip(calls, outcomes, strict=True):
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _outcomes(functions: Sequence[Callable[[], Any]]) -> list[tuple[Any, Exception | None]]:
    outcomes: list[tuple[Any, Exception | None]] = []
    for function in functions:
        try:
            outcomes.append((function(), None))
        except Exception as exc:  # noqa: BLE001 - handed to its own caller
            outcomes.append((None, exc))
    return outcomes
