"""The models of one device, and the queue in front of it."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from model.config import TaskName
from model.results import Params
from service.backends.base import Backend, BatchWarmUp
from service.capacity import capacity_for
from service.catalog import CatalogChanges, CatalogEntry, open_catalog, reload_catalog
from service.engine.base import EngineState, EngineStatus, Priority, ServedModel
from service.engine.batch_types import BatchKey, BatchLimits, Served
from service.engine.batcher import Batcher
from service.engine.device import DeviceThreads
from service.engine.runner import BackendRunner, Work
from service.engine.warm_up import warm_up
from service.errors import (
    EngineUnavailableError,
    ModelNotFoundError,
    NotReadyError,
    ReloadRefusedError,
    ShuttingDownError,
)
from service.pool import CpuPool
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

# nothing is accepted before the models and with them the device are there
_UNTIL_LOADED: Final = "cpu"


class EngineCore:
    """One device, all models, one queue; belongs to the event loop.

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
        # also of models that are gone, but have work that is not done
        self._tasks: dict[str, TaskName] = {}
        self._device = DeviceThreads(lambda cause: self._fail(f"the device thread died: {cause}"))
        runner = BackendRunner(self._device, on_out_of_memory=self._count_out_of_memory)
        self._batcher: Batcher[Work, Any] = Batcher(
            runner, _batch_limits(settings, _UNTIL_LOADED), _BatchMetrics(self)
        )
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load, verify and warm every model; returns when ready.

        Raises:
            Exception: whatever made a model unusable; the state is then FAILED.
        """
        try:
            self._device.start()
            entries = await asyncio.to_thread(self._open_entries, self._settings)
            self._adapt(entries[0].backend)
            for entry in entries:
                self._show(entry)
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

    async def compute(
        self,
        entry: CatalogEntry,
        prepared: Any,
        params: Params,
        *,
        deadline: float,
        priority: Priority,
    ) -> Served[Any]:
        """Run one prepared image; cancelling the call drops the work.

        Args:
            entry: of `entry`.
            prepared: by its backend.
            deadline: `time.monotonic()` seconds.

        Returns:
            the backend's raw result, to be finished by it.

        Raises:
            ServiceError: see `Batcher.submit`.
        """
        return await self._batcher.submit(
            Work(entry.backend, prepared, params),
            key=BatchKey(entry.model.spec.name, prepared.shape, entry.loading),
            deadline=deadline,
            priority=priority,
        )

    async def reload(self, model: str | None) -> CatalogChanges:
        """Load what is new, warm it up beside the running work, and only then serve it.

        What is in work goes on with the model it was accepted for.

        Args:
            model: this one alone; None: all of them.

        Raises:
            ReloadRefusedError: the engine is not ready.
            Exception: whatever made a model unusable; what was served before is served on.
        """
        if self._state is not EngineState.READY:
            raise ReloadRefusedError(f"the engine is {self._state}: {self._detail}")
        found = await asyncio.to_thread(reload_catalog, self._settings, self._entries, model)
        for entry in found.loaded:
            await self._warm_up(entry)
        for entry in found.loaded:
            self._show(entry)
        for name in found.gone:
            self._metrics.drop_model(self.task_of(name), name)
        self._entries = {entry.model.spec.name: entry for entry in found.entries}
        return found

    def entry(self, model: str) -> CatalogEntry:
        """A model that answers.

        Raises:
            NotReadyError: still loading.
            ShuttingDownError: draining or stopped.
            EngineUnavailableError: failed.
            ModelNotFoundError: no such model.
        """
        self._refuse_unless_ready()
        entry = self._entries.get(model)
        if entry is None:
            raise ModelNotFoundError(f"no model {model[:60]!r}")
        return entry

    def entries(self) -> Mapping[str, CatalogEntry]:
        """Models that answer, by name; none before `start` has finished."""
        return MappingProxyType(self._entries)

    def models(self) -> tuple[ServedModel, ...]:
        """Models that answer; none before `start` has finished."""
        return tuple(entry.model for entry in self._entries.values())

    def status(self) -> EngineStatus:
        """How the engine is."""
        return EngineStatus(
            state=self._state,
            heartbeat_age_s=self._device.heartbeat_age_s(),
            detail=self._detail,
        )

    @property
    def max_images(self) -> int:
        """Accepted and not yet answered; known for certain once the models are loaded."""
        return self._batcher.limits.max_queue_images

    @property
    def metrics(self) -> Metrics:
        """Where it counts."""
        return self._metrics

    def predicted_wait_s(self) -> float:
        """Time the present work needs; 0 while nothing has been measured."""
        return self._batcher.predicted_wait_s() or 0.0

    def retry_after_s(self) -> int:
        """Whole seconds after which the present queue should be done, at least 1."""
        return self._batcher.retry_after_s()

    def refuse_if_hopeless(self, deadline: float, priority: Priority) -> None:
        """See `Batcher.refuse_if_hopeless`."""
        self._batcher.refuse_if_hopeless(deadline, priority)

    def begin_draining(self) -> None:
        """Refuse new work; what is accepted goes on."""
        if self._state in (EngineState.READY, EngineState.STARTING):
            self._state, self._detail = EngineState.DRAINING, "finishing accepted work"

    async def stop(self) -> None:
        """Fail what still waits, and end the device thread."""
        self._batcher.close("the server is shutting down")
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
        await self._device.stop(timeout_s=1.0)
        if self._state is not EngineState.FAILED:
            self._state, self._detail = EngineState.STOPPED, "stopped"

    def _count_out_of_memory(self, model: str) -> None:
        self._metrics.out_of_memory.labels(self.task_of(model), model).inc()

    def _adapt(self, backend: Backend) -> None:
        """To the device, which is known once the models are loaded."""
        limits = _batch_limits(self._settings, backend.device)
        if isinstance(backend, BatchWarmUp):
            limits = replace(limits, batch_sizes=self._settings.gpu.warm_up_batches)
        self._batcher.limits = limits
        if backend.device.startswith("cuda"):
            self._metrics.watch_gpu(backend.device)

    def _show(self, entry: CatalogEntry) -> None:
        """Have the metrics tell of this model, and no longer of one that had its name."""
        backend, spec = entry.backend, entry.model.spec
        self._tasks[spec.name] = spec.task
        self._metrics.add_model(
            spec.task,
            spec.name,
            backend=backend.kind,
            device=backend.device,
            dtype=backend.dtype,
            sha256=backend.sha256 or "",
        )
        self._metrics.watch_memory_cap(spec.task, spec.name, partial(self._memory_cap, spec.name))
        if isinstance(backend, BatchWarmUp):
            self._metrics.watch_graphs(spec.task, spec.name, lambda: backend.graph_count)

    async def _warm_up(self, entry: CatalogEntry) -> None:
        backend, spec = entry.backend, entry.model.spec
        seconds = await warm_up(
            backend,
            pool=self._pool,
            device=self._device.compute,
            batch_cap=lambda shape: self._batcher.batch_cap(
                BatchKey(spec.name, shape, entry.loading)
            ),
            learn=lambda shape, images, seconds: self._batcher.learn(
                BatchKey(spec.name, shape, entry.loading), images, seconds
            ),
            tell=self._tell,
        )
        self._metrics.warm_up_seconds.labels(spec.task, spec.name).set(seconds)
        self._metrics.model_ready.labels(spec.task, spec.name).set(1)

    def _memory_cap(self, model: str) -> int:
        caps = self._batcher.memory_caps()
        return min((images for key, images in caps.items() if key.model == model), default=0)

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
        """Of a model that answers, or has answered."""
        return self._tasks[model]

    def _refuse_unless_ready(self) -> None:
        match self._state:
            case EngineState.STARTING:
                raise NotReadyError("models are being loaded", retry_after_s=5)
            case EngineState.DRAINING | EngineState.STOPPED:
                raise ShuttingDownError("the server is shutting down", retry_after_s=5)
            case EngineState.FAILED:
                raise EngineUnavailableError("the engine has failed", retry_after_s=10)

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


class _BatchMetrics:
    """Observer of the batcher."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core

    def batch_done(self, key: BatchKey, images: int) -> None:
        labels = (self._core.task_of(key.model), key.model)
        metrics = self._core.metrics
        metrics.batches.labels(*labels).inc()
        metrics.batch_size.labels(*labels).observe(images)
        metrics.pixels.labels(*labels).inc(images * key.pixels)

    def dropped(self, reason: str) -> None:
        self._core.metrics.dropped.labels(reason).inc()


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
