"""The threads that talk to the device: one computes, one brings batches to it."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from service.errors import EngineUnavailableError

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")
_BEAT_S: Final = 0.5


class DeviceCrash(BaseException):
    """Ends the device thread: the device cannot be used any more."""


class DeviceOutOfMemoryError(RuntimeError):
    """A backend found no memory and gave back what it had in reserve; fewer images may fit."""


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"


class DeviceThread:
    """Runs calls one after another, in a thread of its own.

    Args:
        on_crash: told once, on the event loop, when the thread ended by itself.
        name: of the thread.
    """

    def __init__(
        self, on_crash: Callable[[BaseException], None], *, name: str = "smserve-device"
    ) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._on_crash = on_crash
        self._last_beat = time.monotonic()
        self._lock = threading.Lock()
        self._is_open = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        self._is_open = True
        self._thread.start()

    def heartbeat_age_s(self) -> float:
        """Since the thread itself last wrote its mark; grows while one call runs."""
        return time.monotonic() - self._last_beat

    async def run(self, function: Callable[[], ResultT]) -> ResultT:
        """Call `function` on the thread.

        Cancelling does not stop a call that has begun.

        Raises:
            EngineUnavailableError: the thread is not running, or died on this call.
        """
        loop = asyncio.get_running_loop()
        call = _Call(function, loop, loop.create_future())
        with self._lock:
            if not self._is_open:
                raise EngineUnavailableError("the device thread is not running", retry_after_s=5)
            self._calls.put(call)
        result: ResultT = await call.future
        return result

    async def stop(self, *, timeout_s: float) -> None:
        """End after the calls that were accepted; gives up waiting after `timeout_s`."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
            self._calls.put(None)
        if was_open:
            await asyncio.to_thread(self._thread.join, timeout_s)

    def _serve(self) -> None:
        call: _Call | None = None
        try:
            while True:
                self._last_beat = time.monotonic()
                try:
                    call = self._calls.get(timeout=_BEAT_S)
                except queue.Empty:
                    continue
                if call is None:
                    return
                if not call.future.cancelled():
                    _perform(call)
                call = None
        except BaseException as exc:
            log.critical("the device thread died", exc_info=exc)
            self._abandon(call, exc)

    def _abandon(self, call: _Call | None, cause: BaseException) -> None:
        """Answer the call that failed and all that wait; refuse the next ones."""
        with self._lock:
            self._is_open = False
            waiting = [call] if call is not None else []
            while not self._calls.empty():
                waiting += [rest] if (rest := self._calls.get()) is not None else []
        if waiting:
            # first, so that nobody who has this answer finds the service still called alive
            _schedule(waiting[0].loop, self._on_crash, cause)
        for lost in waiting:
            error = EngineUnavailableError("the device failed", retry_after_s=5)
            error.__cause__ = cause
            _post(lost, lost.future.set_exception, error)


class DeviceThreads:
    """The thread that computes and, beside it, the one that brings batches to the device.

    Args:
        on_crash: told on the event loop when one of them ended by itself, twice if both did.

    Attributes:
        compute: owns the device.
        stage: fills and copies the batch that comes next.
    """

    def __init__(self, on_crash: Callable[[BaseException], None]) -> None:
        self.compute = DeviceThread(on_crash)
        self.stage = DeviceThread(on_crash, name="smserve-staging")

    def start(self) -> None:
        self.compute.start()
        self.stage.start()

    def heartbeat_age_s(self) -> float:
        """Of the one that has been silent longer."""
        return max(self.compute.heartbeat_age_s(), self.stage.heartbeat_age_s())

    async def stop(self, *, timeout_s: float) -> None:
        """See `DeviceThread.stop`; each one has that long."""
        await self.stage.stop(timeout_s=timeout_s)
        await self.compute.stop(timeout_s=timeout_s)


def _perform(call: _Call) -> None:
    try:
        result = call.function()
    except Exception as exc:  # noqa: BLE001 - handed to the caller, whatever it is
        _post(call, call.future.set_exception, exc)
    else:
        _post(call, call.future.set_result, result)


def _post(call: _Call, resolve: Callable[[Any], None], value: Any) -> None:
    def resolve_if_wanted() -> None:
        if not call.future.done():
            resolve(value)

    _schedule(call.loop, resolve_if_wanted)


def _schedule(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        # the loop has closed: nobody waits any more
        log.warning("a result came after the end of the event loop")
