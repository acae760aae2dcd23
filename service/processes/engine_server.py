"""The engine's side of the connections to the front ends."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.results import Result
from service.backends.base import Backend, Finishing
from service.engine.base import Priority
from service.engine.budget import Allowance, ClientShares
from service.engine.core import EngineCore
from service.errors import ClientGoneError, InternalError, service_error
from service.pool import CpuPool, PooledCalls
from service.processes import wire
from service.processes.arena import Mapping as ArenaMapping
from service.processes.channel import (
    Channel,
    ChannelClosedError,
    Kind,
    Message,
    receive_descriptor,
)

log = logging.getLogger(__name__)

_STATUS_S: Final = 0.1
_HELLO_S: Final = 5.0
_BACKLOG: Final = 128


@dataclass(slots=True, eq=False)
class _FrontEnd:
    """A connection and the jobs that came through it."""

    arena: ArenaMapping
    channel: Channel | None = None
    jobs: dict[int, "_Job"] = field(default_factory=dict)

    def send(self, kind: Kind, fields: Mapping[str, Any], payload: bytes = b"") -> None:
        """Nothing happens when the front end has gone."""
        if self.channel is not None:
            with suppress(ChannelClosedError):
                self.channel.send(kind, fields, payload)


@dataclass(slots=True, eq=False)
class _Job:
    """One picture.

    Attributes:
        pixels: (3 H W,) uint8 in shared memory.
        is_finishing: computed; from here on it is answered, whoever still wants to know.
    """

    front: _FrontEnd
    fields: Mapping[str, Any]
    pixels: NDArray[np.uint8]
    started: float
    is_finishing: bool = False
    task: "asyncio.Task[None] | None" = None


class EngineServer:
    """Answers every job once: with a result or an error, so that its shared memory is free again.

    Args:
        core: started by the caller.
        max_images_per_key: in work here, of one client; None: no such limit.
    """

    def __init__(self, core: EngineCore, pool: CpuPool, *, max_images_per_key: int | None) -> None:
        self._core = core
        self._clients = ClientShares(max_images_per_key)
        self._finisher = PooledCalls(pool)
        self._pool = pool
        self._fronts: set[_FrontEnd] = set()
        self._images = Allowance(core.max_images, "images")
        self._tasks: list[asyncio.Task[None]] = []
        self._listener: socket.socket | None = None

    def listen(self, path: Path) -> None:
        """Accept front ends at `path` from now on; a file left there by a dead engine goes."""
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        self._tasks = [
            asyncio.create_task(self._accept(listener), name="accept"),
            asyncio.create_task(self._report(), name="report"),
        ]

    def announce(self) -> None:
        """Tell all front ends which models answer, and how the engine is."""
        self._images.limit = self._core.max_images
        for front in self._fronts:
            self._introduce(front)

    def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        for front in list(self._fronts):
            if front.channel is not None:
                front.channel.close()
        if self._listener is not None:
            self._listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            end, _ = await loop.sock_accept(listener)
            try:
                await self._welcome(end)
            except OSError as exc:
                log.warning("a front end could not connect", extra={"reason": str(exc)})
                end.close()

    async def _welcome(self, end: socket.socket) -> None:
        descriptor = await asyncio.to_thread(receive_descriptor, end, timeout_s=_HELLO_S)
        try:
            front = _FrontEnd(ArenaMapping(descriptor))
        finally:
            os.close(descriptor)
        channel = Channel(lambda message: self._receive(front, message), lambda: self._lose(front))
        front.channel = channel
        self._fronts.add(front)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: channel, end)
        self._introduce(front)

    def _introduce(self, front: _FrontEnd) -> None:
        models = [wire.model_to_fields(model) for model in self._core.models()]
        front.send(Kind.MODELS, {"models": models})
        front.send(Kind.STATUS, self._status())

    def _status(self) -> dict[str, Any]:
        return {
            **wire.status_to_fields(self._core.status()),
            "images": self._images.held,
            "max_images": self._images.limit,
            "wait_s": self._core.predicted_wait_s(),
            "retry_after_s": self._core.retry_after_s(),
        }

    async def _report(self) -> None:
        while True:
            status = self._status()
            for front in self._fronts:
                front.send(Kind.STATUS, status)
            await asyncio.sleep(_STATUS_S)

    def _lose(self, front: _FrontEnd) -> None:
        self._fronts.discard(front)
        for job in front.jobs.values():
            self._withdraw(job)

    def _receive(self, front: _FrontEnd, message: Message) -> None:
        number = message.fields["id"]
        if message.kind == Kind.CANCEL:
            job = front.jobs.get(number)
            if job is not None:
                self._withdraw(job)
        elif message.kind == Kind.SUBMIT:
            fields = message.fields
            pixels = front.arena.view(fields["offset"], 3 * fields["hw"][0] * fields["hw"][1])
            job = front.jobs[number] = _Job(front, fields, pixels, time.monotonic())
            job.task = asyncio.create_task(self._serve(job))
            job.task.add_done_callback(lambda _: self._reply_if_never_begun(job))
        else:
            log.error("unexpected message", extra={"kind": message.kind})

    def _withdraw(self, job: _Job) -> None:
        if job.task is not None and not job.is_finishing:
            job.task.cancel()

    async def _serve(self, job: _Job) -> None:
        try:
            fields, payload = await self._answer(job)
        except asyncio.CancelledError:
            gone = ClientGoneError("the client left")
            self._reply(job, Kind.ERROR, wire.error_to_fields(gone))
        except Exception as exc:
            error = service_error(exc)
            if isinstance(error, InternalError):
                log.error("unexpected error", exc_info=exc)
            self._reply(job, Kind.ERROR, wire.error_to_fields(error))
        else:
            self._reply(job, Kind.RESULT, fields, payload)

    def _reply_if_never_begun(self, job: _Job) -> None:
        """A task that is cancelled before its first step cannot say so itself."""
        if job.fields["id"] in job.front.jobs:
            self._reply(job, Kind.ERROR, wire.error_to_fields(ClientGoneError("the client left")))

    def _reply(self, job: _Job, kind: Kind, fields: dict[str, Any], payload: bytes = b"") -> None:
        number = job.fields["id"]
        del job.front.jobs[number]
        # how full it is now: a report that is a moment old would have places refused that are free
        images = self._images.held
        job.front.send(kind, {**fields, "id": number, "images": images}, payload)

    async def _answer(self, job: _Job) -> tuple[dict[str, Any], bytes]:
        fields = job.fields
        entry = self._core.entry(fields["model"])
        backend = entry.backend
        retry_after_s = self._core.retry_after_s
        with (
            self._images.hold(1, retry_after_s=retry_after_s),
            self._clients.hold(fields["client"], retry_after_s=retry_after_s),
        ):
            rgb = job.pixels.reshape(*fields["hw"], 3)
            if backend.prepares_at_once:
                prepared = backend.prepare(rgb)
            else:
                prepared = await self._pool.run(backend.prepare, rgb)
            # no timer here: the front end has one, and withdraws what is too late
            served = await self._core.compute(
                entry,
                prepared,
                wire.params_from_fields(entry.model.spec.task, fields["params"]),
                deadline=job.started + fields["timeout_s"],
                priority=Priority(fields["priority"]),
            )
            job.is_finishing = True
            computed = time.monotonic()
            finish = partial(_finish, backend, served.result, prepared, job.pixels)
            if backend.finishing is Finishing.AT_ONCE:
                packed, payload = finish()
            else:
                spread = backend.finishing is Finishing.SPREAD
                packed, payload = await self._finisher.run(finish, spread=spread)
        packed["seconds"] = {
            "queue": served.queue_s,
            "infer": served.infer_s,
            "postprocess": time.monotonic() - computed,
        }
        packed["batch_size"] = served.batch_size
        return packed, payload


def _finish(
    backend: Backend, raw: Any, prepared: Any, pixels: NDArray[np.uint8]
) -> tuple[dict[str, Any], bytes]:
    result: Result = backend.finish(raw, prepared)
    return wire.pack_result(result, pixels)
