"""Calls that come together: who makes them, and what becomes of those that fail."""

import asyncio
import threading

import pytest

from service.pool import CpuPool, PooledCalls

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("spread", "threads"), [(False, 1), (True, 2)])
async def test_calls_of_one_turn_are_spread_or_kept_together(spread: bool, threads: int) -> None:
    pool = CpuPool(2)
    calls, meeting = PooledCalls(pool), threading.Barrier(threads)

    def call() -> int:
        # nobody goes on before all threads that are expected have come
        meeting.wait(5)
        return threading.get_ident()

    found = await asyncio.gather(*(calls.run(call, spread=spread) for _ in range(4)))
    assert len(set(found)) == threads
    pool.close()


async def test_an_error_is_its_own_callers() -> None:
    pool = CpuPool(2)
    calls = PooledCalls(pool)

    def fail() -> int:
        raise ValueError("mine")

    good, bad = await asyncio.gather(
        calls.run(lambda: 7, spread=False), calls.run(fail, spread=False), return_exceptions=True
    )
    assert good == 7
    assert isinstance(bad, ValueError)
    pool.close()


async def test_a_closed_pool_tells_everybody() -> None:
    pool = CpuPool(1)
    calls = PooledCalls(pool)
    pool.close()
    found = await asyncio.gather(
        *(calls.run(lambda: 7, spread=False) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(one, RuntimeError) for one in found)
