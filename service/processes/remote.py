"""The front end's side: an `Engine` whose device belongs to other processes."""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.cores import usable_cores
from service.engine.base import (
    EngineState,
    EngineStatus,
    Job,
    Outcome,
    Priority,
    ServedModel,
)
from service.engine.intake import Intake
from service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    EngineUnavailableError,
    ModelNotFoundError,
    NotReadyError,
    QueueFullError,
    ShuttingDownError,
)
from service.pool import CpuPool
from service.processes.arena import Arena, Slot
from service.processes.link import Answered, EngineLink
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

_UNTIL_TOLD: Final = 256
# connections are spread over the front ends by chance: some get more than their share
_MORE_THAN_SHARE: Final = 2


class RemoteEngine:
    """Decodes here, into shared memory, and lets the least loaded engine compute.

    Args:
        sockets: where the engines listen.
        num_fronts: that share the engines' queues.
    """

    def __init__(
        self,
        settings: Settings,
        pool: CpuPool,
        metrics: Metrics,
        *,
        sockets: Sequence[Path],
        num_fronts: int,
    ) -> None:
        self._num_fronts = num_fronts
        self._fill_cores = num_fronts > usable_cores() // 2
        self._pool = pool
        self._intake = Intake(settings, pool, metrics, max_images=_UNTIL_TOLD)
        self._arena = Arena(settings.processes.picture_bytes)
        self._links = [
            EngineLink(path, self._arena, self._adapt, silent_s=settings.timeouts.heartbeat_s)
            for path in sockets
        ]
        self._connecting: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        self._closed: EngineState | None = None

    async def start(self) -> None:
        """Connect; returns when one engine is ready."""
        self._connecting = [asyncio.create_task(link.keep_connected()) for link in self._links]
        await self._ready.wait()

    async def predict(self, job: Job) -> Outcome:
        model = self._find(job.model)
        self._refuse_if_hopeless(job)
        retry_after_s = self._retry_after_s
        with self._intake.admitted(model.spec, job.client, retry_after_s=retry_after_s):
            try:
                async with asyncio.timeout(job.deadline - time.monotonic()):
                    return await self._answer(job)
            except TimeoutError as exc:
                raise DeadlineExceededError("the deadline passed before the answer") from exc

    def models(self) -> tuple[ServedModel, ...]:
        return next((link.models for link in self._links if link.models), ())

    def status(self) -> EngineStatus:
        """READY when one engine is; STARTING while all are being restarted.

        A device that is silent is the supervisor's business: this process is alive.
        """
        if self._closed is not None:
            return EngineStatus(state=self._closed, heartbeat_age_s=0.0, detail=self._closed.value)
        ready = [link for link in self._links if link.is_ready]
        state = EngineState.READY if ready else EngineState.STARTING
        detail = "; ".join(sorted({link.detail for link in ready or self._links}))
        return EngineStatus(state=state, heartbeat_age_s=0.0, detail=detail)

    async def stop(self, *, timeout_s: float) -> None:
        if self._closed is EngineState.STOPPED:
            return
        if self._closed is None:
            self._closed = EngineState.DRAINING
        if not await self._intake.drained(timeout_s=timeout_s):
            log.warning("work left after the drain", extra={"images": self._intake.images.held})
        self._closed = EngineState.STOPPED
        for task in self._connecting:
            task.cancel()
        for link in self._links:
            link.close()
        self._arena.close()

    async def _answer(self, job: Job) -> Outcome:
        started = time.monotonic()
        pixels = await self._intake.size(job.image)
        with self._intake.holding(pixels, retry_after_s=self._retry_after_s):
            async with self._intake.turn(pixels):
                slot, hw = await self._decode(job, pixels)
            decoded = time.monotonic()
            answered = await self._hand_over(job, slot, hw)
        # from here to the engine and back is a kind of waiting, too
        seconds = dict(answered.seconds)
        elsewhere = seconds["infer"] + seconds["postprocess"]
        seconds["queue"] = max(seconds["queue"], time.monotonic() - decoded - elsewhere)
        return Outcome(
            result=answered.result,
            height=hw[0],
            width=hw[1],
            stage_seconds={"decode": decoded - started, **seconds},
            batch_size=answered.batch_size,
        )

    async def _decode(self, job: Job, pixels: int) -> tuple[Slot, tuple[int, int]]:
        """The picture in shared memory, and its height and width."""
        slot = await self._arena.take(3 * pixels)
        out = self._arena.view(slot, 3 * pixels)

        def place(rgb: NDArray[np.uint8]) -> tuple[int, int]:
            if rgb.ctypes.data != out.ctypes.data:
                out[: rgb.size] = rgb.reshape(-1)
            return rgb.shape[0], rgb.shape[1]

        def release() -> None:
            self._arena.give_back(slot)

        hw = await self._intake.decode(
            job.image, place, out=out, release=release, at_once=self._is_spared_a_thread(job)
        )
        return slot, hw

    def _is_spared_a_thread(self, job: Job) -> bool:
        """A client that is alone, and where front ends fill the cores everybody.

        There a thread would find no core that is free, and the way to it and back costs a tenth of
        what a small picture costs. The images of one request share their front end's threads.
        """
        return self._intake.images.held == 1 or (self._fill_cores and job.is_alone)

    async def _hand_over(self, job: Job, slot: Slot, hw: tuple[int, int]) -> Answered:
        try:
            link = self._least_loaded()
        except EngineUnavailableError:
            self._arena.give_back(slot)
            raise
        # from here on the slot belongs to the link
        return await link.submit(job, slot, hw)

    def _least_loaded(self) -> EngineLink:
        ready = [link for link in self._links if link.is_ready]
        if not ready:
            raise EngineUnavailableError("no engine is ready", retry_after_s=5)
        return min(ready, key=lambda link: link.num_jobs)

    def _find(self, name: str) -> ServedModel:
        if self._closed is not None:
            raise ShuttingDownError("the server is shutting down", retry_after_s=5)
        models = self.models()
        if not models:
            raise NotReadyError("models are being loaded", retry_after_s=5)
        self._least_loaded()
        for model in models:
            if model.spec.name == name:
                return model
        raise ModelNotFoundError(f"no model {name[:60]!r}")

    def _refuse_if_hopeless(self, job: Job) -> None:
        """Before anything is spent on a picture that every engine would refuse."""
        loads = [link.load for link in self._links if link.is_ready]
        if not loads:
            return
        load = min(loads, key=lambda own: own.images / own.max_images)
        retry = load.retry_after_s
        if load.images >= load.max_images:
            raise QueueFullError(
                f"{load.images} images in work, limit {load.max_images}; retry in {retry} s",
                retry_after_s=retry,
            )
        wait = min(own.wait_s for own in loads)
        left = job.deadline - time.monotonic()
        # what goes first does not wait for everything that is there: the engine knows for how much
        if job.priority is Priority.NORMAL and wait > left:
            raise DeadlineUnreachableError(
                f"the work ahead takes about {wait:.1f} s, the deadline is in {left:.1f} s",
                retry_after_s=retry,
            )

    def _retry_after_s(self) -> int:
        return max((link.load.retry_after_s for link in self._links), default=1)

    def _adapt(self) -> None:
        """An engine has said something new."""
        total = sum(link.load.max_images for link in self._links)
        share = _MORE_THAN_SHARE * total // self._num_fronts
        self._intake.images.limit = max(1, min(total, share))
        if any(link.is_ready for link in self._links):
            self._ready.set()
