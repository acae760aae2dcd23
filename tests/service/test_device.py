"""The device thread: order, errors, crash, end."""

import asyncio
import threading
import time
from typing import Any

import pytest

from service.engine import device as device_module
from service.engine.device import DeviceCrash, DeviceThread, DeviceThreads
from service.errors import EngineUnavailableError
from tests.service.running import until

pytestmark = pytest.mark.anyio


async def test_calls_run_in_one_thread_in_order() -> None:
    device = DeviceThread(lambda _: None)
    device.start()
    threads: list[int] = []
    order: list[int] = []

    def call(number: int) -> int:
        threads.append(threading.get_ident())
        order.append(number)
        return number

    results = await asyncio.gather(*(device.run(lambda n=n: call(n)) for n in range(20)))  # type: ignore[misc]
    assert results == order == list(range(20))
    assert set(threads) != {threading.get_ident()}
    assert len(set(threads)) == 1
    await device.stop(timeout_s=5)


async def test_an_error_goes_to_its_caller_and_the_thread_lives_on() -> None:
    device = DeviceThread(lambda _: None)
    device.start()
    with pytest.raises(ZeroDivisionError):
        await device.run(lambda: 1 / 0)
    assert await device.run(lambda: 7) == 7
    await device.stop(timeout_s=5)


async def test_a_cancelled_call_is_not_run() -> None:
    device = DeviceThread(lambda _: None)
    device.start()
    gate = threading.Event()
    ran: list[str] = []
    first = asyncio.create_task(device.run(gate.wait))
    second = asyncio.create_task(device.run(lambda: ran.append("second")))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    gate.set()
    await first
    await device.run(lambda: ran.append("third"))
    assert ran == ["third"]
    await device.stop(timeout_s=5)


async def test_a_crash_answers_everyone_and_is_told_once() -> None:
    crashes: list[BaseException] = []
    device = DeviceThread(crashes.append)
    device.start()

    def crash() -> None:
        time.sleep(0.05)
        raise DeviceCrash("lost")

    calls = [device.run(crash), *(device.run(lambda: 1) for _ in range(3))]
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), timeout=5)
    assert all(isinstance(result, EngineUnavailableError) for result in results)
    await asyncio.sleep(0.01)
    assert [str(crash) for crash in crashes] == ["lost"]
    with pytest.raises(EngineUnavailableError):
        await device.run(lambda: 1)
    await device.stop(timeout_s=5)


async def test_a_crash_is_told_before_anybody_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = device_module._schedule

    def schedule_and_pause(*args: Any) -> None:
        schedule(*args)
        time.sleep(0.02)

    monkeypatch.setattr(device_module, "_schedule", schedule_and_pause)
    crashes: list[BaseException] = []
    device = DeviceThread(crashes.append)
    device.start()

    def crash() -> None:
        raise DeviceCrash("lost")

    with pytest.raises(EngineUnavailableError):
        await asyncio.wait_for(device.run(crash), timeout=5)
    assert len(crashes) == 1
    await device.stop(timeout_s=5)


async def test_the_heartbeat_is_the_threads_own() -> None:
    device = DeviceThread(lambda _: None)
    device.start()
    gate = threading.Event()
    busy = asyncio.create_task(device.run(gate.wait))
    # more than between two marks of a thread that has nothing to do
    await until(lambda: device.heartbeat_age_s() > 0.8)
    gate.set()
    await busy
    await until(lambda: device.heartbeat_age_s() < 0.2)
    await device.stop(timeout_s=5)


async def test_stop_finishes_accepted_calls_and_refuses_new_ones() -> None:
    device = DeviceThread(lambda _: None)
    device.start()
    accepted = asyncio.create_task(device.run(lambda: time.sleep(0.1)))
    await asyncio.sleep(0.01)
    await device.stop(timeout_s=5)
    await asyncio.wait_for(accepted, timeout=1)
    with pytest.raises(EngineUnavailableError):
        await device.run(lambda: 1)


async def test_one_thread_stages_while_the_other_computes() -> None:
    threads = DeviceThreads(lambda _: None)
    threads.start()
    gate = threading.Event()
    computing = asyncio.create_task(threads.compute.run(lambda: gate.wait(5)))
    name = await asyncio.wait_for(
        threads.stage.run(lambda: threading.current_thread().name), timeout=5
    )
    assert name == "smserve-staging"
    assert not computing.done()
    gate.set()
    assert await computing
    await threads.stop(timeout_s=5)
    for thread in (threads.compute, threads.stage):
        with pytest.raises(EngineUnavailableError):
            await thread.run(lambda: 1)


async def test_the_heartbeat_of_two_threads_is_that_of_the_silent_one() -> None:
    threads = DeviceThreads(lambda _: None)
    threads.start()
    for thread in (threads.compute, threads.stage):
        gate = threading.Event()
        busy = asyncio.create_task(thread.run(gate.wait))
        await until(lambda: threads.heartbeat_age_s() > 0.8)
        gate.set()
        await busy
        await until(lambda: threads.heartbeat_age_s() < 0.7)
    await threads.stop(timeout_s=5)


async def test_a_crash_of_the_staging_thread_is_told() -> None:
    crashes: list[BaseException] = []
    threads = DeviceThreads(crashes.append)
    threads.start()

    def crash() -> None:
        raise DeviceCrash("lost")

    with pytest.raises(EngineUnavailableError):
        await threads.stage.run(crash)
    await asyncio.sleep(0.01)
    assert [str(crash) for crash in crashes] == ["lost"]
    await threads.stop(timeout_s=5)
