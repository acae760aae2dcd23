"""The engine inside the front end's own process: pool -> queue -> device thread -> pool."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.backends.base import Finishing
from service.catalog import CatalogEntry, open_catalog
from service.engine.base import EngineStatus, Job, Outcome, ServedModel
from service.engine.core import EngineCore
from service.engine.intake import Intake
from service.errors import DeadlineExceededError
from service.pool import CpuPool
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)


class LocalEngine:
    """An `Engine` that computes here.

    Args:
        on_failure: told once when the engine cannot go on; the process should end.
        open_entries: loads the models, off the event loop.
    """

    def __init__(
        self,
        settings: Settings,
        pool: CpuPool,
        metrics: Metrics,
        *,
        on_failure: Callable[[str], None],
        open_entries: Callable[[Settings], Sequence[CatalogEntry]] = open_catalog,
    ) -> None:
        self._pool = pool
        self._core = EngineCore(
            settings, pool, metrics, on_failure=on_failure, open_entries=open_entries
        )
        self._intake = Intake(settings, pool, metrics, max_images=self._core.max_images)

    async def start(self) -> None:
        await self._core.start()
        self._intake.images.limit = self._core.max_images

    async def predict(self, job: Job) -> Outcome:
        entry = self._core.entry(job.model)
        retry_after_s = self._core.retry_after_s
        with self._intake.admitted(entry.model.spec, job.client, retry_after_s=retry_after_s):
            # before it is decoded in vain
            self._core.refuse_if_hopeless(job.deadline, job.priority)
            try:
                async with asyncio.timeout(job.deadline - time.monotonic()):
                    return await self._answer(entry, job)
            except TimeoutError as exc:
                raise DeadlineExceededError("the deadline passed before the answer") from exc

    @property
    def core(self) -> EngineCore:
        """What computes; for those who administer it."""
        return self._core

    def models(self) -> tuple[ServedModel, ...]:
        return self._core.models()

    def status(self) -> EngineStatus:
        return self._core.status()

    async def stop(self, *, timeout_s: float) -> None:
        self._core.begin_draining()
        if not await self._intake.drained(timeout_s=timeout_s):
            log.warning("work left after the drain", extra={"images": self._intake.images.held})
        await self._core.stop()

    async def _answer(self, entry: CatalogEntry, job: Job) -> Outcome:
        backend, started = entry.backend, time.monotonic()

        def place(rgb: NDArray[np.uint8]) -> tuple[Any, tuple[int, int]]:
            return backend.prepare(rgb), (rgb.shape[0], rgb.shape[1])

        pixels = await self._intake.size(job.image)
        with self._intake.holding(pixels, retry_after_s=self._core.retry_after_s):
            async with self._intake.turn(pixels):
                prepared, (height, width) = await self._intake.decode(job.image, place)
            decoded = time.monotonic()
            served = await self._core.compute(
                entry, prepared, job.params, deadline=job.deadline, priority=job.priority
            )
            computed = time.monotonic()
            if backend.finishing is Finishing.AT_ONCE:
                result = backend.finish(served.result, prepared)
            else:
                result = await self._pool.run(backend.finish, served.result, prepared)
        return Outcome(
            result=result,
            height=height,
            width=width,
            stage_seconds={
                "decode": decoded - started,
                "queue": served.queue_s,
                "infer": served.infer_s,
                "postprocess": time.monotonic() - computed,
            },
            batch_size=served.batch_size,
        )
