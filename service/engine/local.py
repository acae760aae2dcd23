"""The engine inside the front end's own process: pool -> batcher -> device thread -> pool."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from model.config import TaskName
from model.images import (
    DecodeLimits,
    ImageDecodeError,
    ImageTooLargeError,
    UnsupportedImageError,
    decode_rgb,
    read_header,
)
from service.backends.base import Backend, BatchWarmUp, PreparedImage
from service.capacity import capacity_for
from service.catalog import CatalogEntry, open_catalog
from service.engine.base import EngineState, EngineStatus, Job, Outcome, ServedModel
from service.engine.batch_types import BatchKey, BatchLimits
from service.engine.batcher import Batcher
from service.engine.budget import Allowance, Turnstile
from service.engine.device import DeviceThreads
from service.engine.runner import BackendRunner, Work
from service.engine.warm_up import warm_up
from service.errors import (
    ClientGoneError,
    DeadlineExceededError,
    EngineUnavailableError,
    ModelNotFoundError,
    NotReadyError,
    ServiceError,
    ShuttingDownError,
)
from service.pool import CpuPool
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

# nothing is accepted before the models and with them the device are there
_UNTIL_LOADED: Final = "cpu"


class LocalEngine:
    """One device, all models, one queue.

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
        self._settings = settings
        self._pool = pool
        self._metrics = metrics
        self._on_failure = on_failure
        self._open_entries = open_entries
        self._state, self._detail = EngineState.STARTING, "loading models"
        self._entries: dict[str, CatalogEntry] = {}
        self._device = DeviceThreads(lambda cause: self._fail(f"the device thread died: {cause}"))
        runner = BackendRunner(
            self._device,
            lambda model: self._entries[model].backend,
            on_out_of_memory=self._count_out_of_memory,
        )
        self._batcher: Batcher[Work, Any] = Batcher(
            runner, _batch_limits(settings, _UNTIL_LOADED), _BatchMetrics(self)
        )
        self._runner: asyncio.Task[None] | None = None
        queue = settings.queue
        self._images = Allowance(self._batcher.limits.max_queue_images, "images")
        self._source_pixels = Allowance(queue.max_source_pixels, "pixels of pictures")
        self._decode_turn = Turnstile(queue.max_decode_pixels)
        self._decode_limits = DecodeLimits(
            max_pixels=settings.limits.max_pixels, max_side=settings.limits.max_side
        )
        self._all_answered = asyncio.Event()

    async def start(self) -> None:
        try:
            self._device.start()
            entries = await asyncio.to_thread(self._open_entries, self._settings)
            self._adapt(entries[0].backend)
            for entry in entries:
                await self._warm_up(entry)
        except Exception as exc:
            self._fail(f"{type(exc).__name__}: {exc}")
            raise
        self._entries = {entry.model.spec.name: entry for entry in entries}
        self._watch_queue()
        self._runner = asyncio.create_task(self._batcher.run(), name="batcher")
        self._runner.add_done_callback(self._batcher_ended)
        self._state, self._detail = EngineState.READY, "ready"
        log.info("engine ready", extra={"models": sorted(self._entries)})

    async def predict(self, job: Job) -> Outcome:
        self._refuse_unless_ready()
        entry = self._entries.get(job.model)
        if entry is None:
            raise ModelNotFoundError(f"no model {job.model!r}")
        with self._counted(entry), self._images.hold(1, retry_after_s=self._retry_after_s()):
            try:
                async with asyncio.timeout(job.deadline - time.monotonic()):
                    return await self._answer(entry.backend, job)
            except TimeoutError as exc:
                raise DeadlineExceededError("the deadline passed before the answer") from exc

    def models(self) -> tuple[ServedModel, ...]:
        return tuple(entry.model for entry in self._entries.values())

    def status(self) -> EngineStatus:
        return EngineStatus(
            state=self._state,
            heartbeat_age_s=self._device.heartbeat_age_s(),
            detail=self._detail,
        )

    async def stop(self, *, timeout_s: float) -> None:
        if self._state in (EngineState.READY, EngineState.STARTING):
            self._state, self._detail = EngineState.DRAINING, "finishing accepted work"
        self._all_answered.clear()
        if self._images.held:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._all_answered.wait()
            except TimeoutError:
                log.warning("work left after the drain", extra={"images": self._images.held})
        self._batcher.close("the server is shutting down")
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
        await self._device.stop(timeout_s=1.0)
        if self._state is not EngineState.FAILED:
            self._state, self._detail = EngineState.STOPPED, "stopped"

    async def _answer(self, backend: Backend, job: Job) -> Outcome:
        started = time.monotonic()
        header = await self._pool.run(read_header, job.image)
        # what is over the limit is refused by the decoder, with a better message
        pixels = min(header.width * header.height, self._decode_limits.max_pixels)
        with self._source_pixels.hold(pixels, retry_after_s=self._retry_after_s()):
            async with self._decode_turn.hold(pixels):
                prepared, (height, width) = await self._pool.run(self._prepare, backend, job.image)
            decoded = time.monotonic()
            served = await self._batcher.submit(
                Work(prepared, job.params),
                key=BatchKey(job.model, prepared.shape),
                deadline=job.deadline,
                priority=job.priority,
            )
            computed = time.monotonic()
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

    def _prepare(self, backend: Backend, image: bytes) -> tuple[PreparedImage, tuple[int, int]]:
        rgb = decode_rgb(image, limits=self._decode_limits)
        return backend.prepare(rgb), (rgb.shape[0], rgb.shape[1])

    def _count_out_of_memory(self, model: str) -> None:
        self._metrics.out_of_memory.labels(self.task_of(model), model).inc()

    def _adapt(self, backend: Backend) -> None:
        """To the device, which is known once the models are loaded."""
        limits = _batch_limits(self._settings, backend.device)
        if isinstance(backend, BatchWarmUp):
            limits = replace(limits, batch_sizes=self._settings.gpu.warm_up_batches)
        self._batcher.limits = limits
        self._images.limit = limits.max_queue_images
        if backend.device.startswith("cuda"):
            self._metrics.watch_gpu(backend.device)

    async def _warm_up(self, entry: CatalogEntry) -> None:
        backend, spec = entry.backend, entry.model.spec
        self._metrics.add_model(
            spec.task,
            spec.name,
            backend=backend.kind,
            device=backend.device,
            dtype=backend.dtype,
            sha256=backend.sha256 or "",
        )
        if isinstance(backend, BatchWarmUp):
            self._metrics.watch_graphs(spec.task, spec.name, lambda: backend.graph_count)
        seconds = await warm_up(
            backend,
            pool=self._pool,
            device=self._device.compute,
            batch_cap=lambda shape: self._batcher.batch_cap(BatchKey(spec.name, shape)),
            tell=self._tell,
        )
        self._metrics.warm_up_seconds.labels(spec.task, spec.name).set(seconds)
        self._metrics.model_ready.labels(spec.task, spec.name).set(1)

    def _tell(self, progress: str) -> None:
        if self._state is EngineState.STARTING:
            self._detail = progress

    def _watch_queue(self) -> None:
        def waiting(task: TaskName) -> list[tuple[BatchKey, int, float]]:
            return [w for w in self._batcher.waiting() if self.task_of(w[0].model) is task]

        self._metrics.watch_queue(
            depth=lambda task: sum(images for _, images, _ in waiting(task)),
            pixels=lambda task: sum(key.pixels * images for key, images, _ in waiting(task)),
            oldest_age_s=lambda task: max((age for _, _, age in waiting(task)), default=0.0),
        )

    def task_of(self, model: str) -> TaskName:
        return self._entries[model].model.spec.task

    @property
    def metrics(self) -> Metrics:
        return self._metrics

    def _retry_after_s(self) -> int:
        return self._batcher.retry_after_s()

    def _refuse_unless_ready(self) -> None:
        match self._state:
            case EngineState.STARTING:
                raise NotReadyError("models are being loaded", retry_after_s=5)
            case EngineState.DRAINING | EngineState.STOPPED:
                raise ShuttingDownError("the server is shutting down", retry_after_s=5)
            case EngineState.FAILED:
                raise EngineUnavailableError("the engine has failed", retry_after_s=10)

    @contextmanager
    def _counted(self, entry: CatalogEntry) -> Iterator[None]:
        """Count one image by its outcome, and notice when the last one is answered."""
        spec = entry.model.spec
        outcome = "failed"
        try:
            yield
            outcome = "ok"
        except (ImageDecodeError, UnsupportedImageError, ImageTooLargeError) as exc:
            outcome = "invalid"
            self._metrics.decode_errors.labels(_DECODE_REASONS[type(exc)]).inc()
            raise
        except ServiceError as exc:
            outcome = _outcome_of(exc)
            raise
        except asyncio.CancelledError:
            outcome = "dropped"
            raise
        finally:
            self._metrics.images.labels(spec.task, spec.name, outcome).inc()
            if not self._images.held:
                self._all_answered.set()

    def _batcher_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._fail(f"the batcher died: {task.exception()}")

    def _fail(self, reason: str) -> None:
        if self._state is EngineState.FAILED:
            return
        self._state, self._detail = EngineState.FAILED, reason
        for entry in self._entries.values():
            spec = entry.model.spec
            self._metrics.model_ready.labels(spec.task, spec.name).set(0)
        log.critical("the engine cannot go on", extra={"reason": reason})
        self._on_failure(reason)


_DECODE_REASONS = {
    ImageDecodeError: "damaged",
    UnsupportedImageError: "unsupported",
    ImageTooLargeError: "too_large",
}


def _outcome_of(error: ServiceError) -> str:
    if isinstance(error, (DeadlineExceededError, ClientGoneError)):
        return "dropped"
    return "rejected" if error.status in (429, 503) else "failed"


class _BatchMetrics:
    """Observer of the batcher."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def batch_done(self, key: BatchKey, images: int) -> None:
        labels = (self._engine.task_of(key.model), key.model)
        metrics = self._engine.metrics
        metrics.batches.labels(*labels).inc()
        metrics.batch_size.labels(*labels).observe(images)
        metrics.pixels.labels(*labels).inc(images * key.pixels)

    def dropped(self, reason: str) -> None:
        self._engine.metrics.dropped.labels(reason).inc()


def _batch_limits(settings: Settings, device: str) -> BatchLimits:
    capacity = capacity_for(settings, device)
    return BatchLimits(
        max_batch_images=capacity.batch_images,
        max_batch_pixels=capacity.batch_pixels,
        max_delay_s=settings.batch.max_delay_ms / 1000,
        max_age_s=settings.batch.max_age_ms / 1000,
        max_queue_images=capacity.queue_images,
        max_queue_pixels=capacity.queue_pixels,
    )
