"""A front end's connection to one engine."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

from model.results import Result
from service.engine.base import EngineState, EngineStatus, Job, ServedModel
from service.errors import EngineUnavailableError, ShuttingDownError
from service.processes import wire
from service.processes.arena import Arena, Slot
from service.processes.channel import Channel, ChannelClosedError, Kind, Message, connect

log = logging.getLogger(__name__)

_RETRY_S: Final = 0.1
_RESTART_S: Final = 5


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine said it was.

    Attributes:
        images: in work there, from all front ends.
        max_images: more are refused.
        wait_s: until the present work is done.
        retry_after_s: for who is refused.
    """

    images: int
    max_images: int
    wait_s: float
    retry_after_s: int


@dataclass(frozen=True, slots=True)
class Answered:
    """An engine's answer.

    Attributes:
        seconds: queue, infer, postprocess.
        batch_size: images that shared the run of the device.
    """

    result: Result
    seconds: Mapping[str, float]
    batch_size: int


@dataclass(slots=True, eq=False)
class _Waiting:
    slot: Slot
    num_bytes: int
    future: "asyncio.Future[Answered]"


_NOT_THERE: Final = EngineStatus(
    state=EngineState.STARTING, heartbeat_age_s=0.0, detail="the engine is starting"
)
_NO_LOAD: Final = Load(0, 1, 0.0, 1)


class EngineLink:
    """Belongs to the event loop.

    Slots of the arena that are handed over come back when the engine has answered, or is gone: as
    long as it may still write to them, nobody else gets them.

    Args:
        path: where the engine listens.
        on_news: called when models, status or load have changed.
        silent_s: a device that has not shown itself for longer hangs.

    Attributes:
        models: that answer there.
        status: as it last said.
        load: as it last said.
    """

    def __init__(
        self, path: Path, arena: Arena, on_news: Callable[[], None], *, silent_s: float
    ) -> None:
        self._path = path
        self._arena = arena
        self._on_news = on_news
        self._silent_s = silent_s
        self._numbers = count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._channel: Channel | None = None
        self._lost = asyncio.Event()
        self.models: tuple[ServedModel, ...] = ()
        self.status = _NOT_THERE
        self.load = _NO_LOAD

    @property
    def num_jobs(self) -> int:
        """Of this front end, in work there."""
        return len(self._waiting)

    @property
    def is_ready(self) -> bool:
        """New work is welcome there."""
        status = self.status
        return status.state is EngineState.READY and status.heartbeat_age_s <= self._silent_s

    @property
    def detail(self) -> str:
        """Why it is ready or not, for people."""
        status = self.status
        if status.state is EngineState.READY and not self.is_ready:
            return f"the device is silent for {status.heartbeat_age_s:.0f} s"
        return status.detail

    async def keep_connected(self) -> None:
        """Connect, and again whenever the engine has gone; until cancelled."""
        while True:
            channel = Channel(self._receive, self._lose)
            self._lost.clear()
            try:
                await connect(self._path, channel, descriptor=self._arena.descriptor)
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            self._channel = channel
            await self._lost.wait()

    async def submit(self, job: Job, slot: Slot, hw: tuple[int, int]) -> Answered:
        """Let the engine answer a picture of shape (*hw, 3) in `slot`, which it owns from now on.

        Cancelling tells the engine.

        Raises:
            ServiceError: as the engine says.
            EngineUnavailableError: it has gone.
        """
        number, num_bytes = next(self._numbers), 3 * hw[0] * hw[1]
        waiting = _Waiting(slot, num_bytes, asyncio.get_running_loop().create_future())
        fields = {
            "id": number,
            "model": job.model,
            "params": wire.params_to_fields(job.params),
            "timeout_s": job.deadline - time.monotonic(),
            "priority": int(job.priority),
            "client": job.client,
            "offset": slot.offset,
            "hw": hw,
        }
        try:
            self._send(Kind.SUBMIT, fields)
        except ChannelClosedError as exc:
            self._arena.give_back(slot)
            raise _gone() from exc
        self._waiting[number] = waiting
        try:
            return await waiting.future
        except asyncio.CancelledError:
            with suppress(ChannelClosedError):
                self._send(Kind.CANCEL, {"id": number})
            raise

    def close(self) -> None:
        """Say goodbye; what is not answered yet is answered with an error."""
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(ShuttingDownError("the server is shutting down"))
        if self._channel is not None:
            self._channel.close()

    def _send(self, kind: Kind, fields: dict[str, Any]) -> None:
        if self._channel is None:
            raise ChannelClosedError("not connected")
        self._channel.send(kind, fields)

    def _receive(self, message: Message) -> None:
        fields = message.fields
        match message.kind:
            case Kind.RESULT | Kind.ERROR:
                self._resolve(message)
            case Kind.MODELS:
                self.models = tuple(wire.model_from_fields(own) for own in fields["models"])
                self._on_news()
            case Kind.STATUS:
                self.status = wire.status_from_fields(fields)
                self.load = Load(
                    fields["images"],
                    fields["max_images"],
                    fields["wait_s"],
                    fields["retry_after_s"],
                )
                self._on_news()
            case _:
                log.error("unexpected message", extra={"kind": message.kind})

    def _resolve(self, message: Message) -> None:
        fields = message.fields
        waiting = self._waiting.pop(fields["id"])
        self.load = replace(self.load, images=fields["images"])
        try:
            # nobody may be left to wait: then all that matters is the slot
            if waiting.future.done():
                return
            if message.kind == Kind.ERROR:
                waiting.future.set_exception(wire.error_from_fields(fields))
                return
            picture = self._arena.view(waiting.slot, waiting.num_bytes)
            result = wire.unpack_result(fields, message.payload, picture)
            answered = Answered(result, fields["seconds"], fields["batch_size"])
            waiting.future.set_result(answered)
        finally:
            self._arena.give_back(waiting.slot)

    def _lose(self) -> None:
        """The engine has gone, and with it everything it was to answer."""
        self._channel = None
        self.status = _NOT_THERE
        self.load = _NO_LOAD
        lost, self._waiting = self._waiting, {}
        for waiting in lost.values():
            if not waiting.future.done():
                waiting.future.set_exception(_gone())
            self._arena.give_back(waiting.slot)
        if lost:
            log.warning("an engine has gone", extra={"images": len(lost)})
        self._on_news()
        self._lost.set()


def _gone() -> EngineUnavailableError:
    return EngineUnavailableError(
        "the engine has gone and is being restarted", retry_after_s=_RESTART_S
    )
