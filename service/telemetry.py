"""Prometheus metrics: one registry per process, every label set present from the start.

What the values of several processes come to is declared here, beside each metric.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import (
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0

from model.config import TaskName
from service.gpu_metrics import GpuCollector
from service.metrics_snapshot import Merge, MergingRegistry

STAGES: Final = ("read", "decode", "queue", "infer", "postprocess", "encode")
OUTCOMES: Final = ("ok", "invalid", "rejected", "dropped", "failed")
REJECTION_REASONS: Final = (
    "queue_full", "client_limit", "deadline", "draining", "too_large", "unauthorized",
)  # fmt: skip
DROP_REASONS: Final = ("client_gone", "deadline")
DECODE_ERRORS: Final = ("damaged", "unsupported", "too_large")
PROCESS_KINDS: Final = ("engine", "front")
RESTART_REASONS: Final = ("exited", "killed", "silent")
_CODES: Final = (200, 400, 401, 404, 405, 406, 408, 413, 415, 422, 429, 499, 500, 503, 504)
_REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STAGE_BUCKETS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
UNKNOWN_MODEL: Final = "unknown"
DISTRIBUTION: Final = "spatial-mamba-serve"


def service_version() -> str:
    """Of the installed distribution; `unknown` when it runs from a bare folder."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


class Metrics:
    """All metrics of one process; pass it down, there is no global one.

    Each metric that several processes have is declared with what their values come to (`Merge`);
    those without a declaration are added up.

    The gauges of the queue are read when scraped, so scrape on the event loop.
    """

    def __init__(self) -> None:
        self.registry = MergingRegistry()
        self._infos: dict[str, tuple[str, ...]] = {}
        self.registry.declare(ProcessCollector(registry=self.registry), Merge.EACH)
        self.registry.declare(PlatformCollector(registry=self.registry), Merge.SAME)
        self._create_request_metrics()
        self._create_engine_metrics()
        self._create_process_metrics()
        self._initialise_tasks()

    def _create_request_metrics(self) -> None:
        registry = self.registry
        self.requests = Counter(
            "smserve_requests", "Answered requests", ["task", "model", "code"], registry=registry
        )
        self.request_duration = Histogram(
            "smserve_request_duration_seconds",
            "From the first byte of a request to the last of its answer",
            ["task", "model"],
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.stage_duration = Histogram(
            "smserve_stage_duration_seconds",
            "Time of one stage of one image",
            ["stage", "task"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.inflight = Gauge(
            "smserve_inflight_requests", "Accepted, not answered", ["task"], registry=registry
        )
        self.rejected = Counter(
            "smserve_rejected", "Requests refused at once", ["reason"], registry=registry
        )
        self.draining = registry.declare(
            Gauge("smserve_draining", "1 after SIGTERM", registry=registry), Merge.MAX
        )
        build = registry.declare(
            Gauge("smserve_build_info", "Always 1", ["version"], registry=registry), Merge.SAME
        )
        build.labels(service_version()).set(1)

    def _create_engine_metrics(self) -> None:
        registry = self.registry
        self.images = Counter(
            "smserve_images", "Images by outcome", ["task", "model", "outcome"], registry=registry
        )
        self.batch_size = Histogram(
            "smserve_batch_size_images",
            "Images in one run of the device",
            ["task", "model"],
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self.batches = Counter(
            "smserve_batches", "Runs of the device", ["task", "model"], registry=registry
        )
        self.pixels = Counter(
            "smserve_pixels", "Network input pixels computed", ["task", "model"], registry=registry
        )
        self.dropped = Counter(
            "smserve_dropped", "Images dropped before the device", ["reason"], registry=registry
        )
        self.decode_errors = Counter(
            "smserve_decode_errors", "Unusable pictures", ["reason"], registry=registry
        )
        self.queue_depth = Gauge(
            "smserve_queue_depth", "Images waiting for the device", ["task"], registry=registry
        )
        self.queue_pixels = Gauge(
            "smserve_queue_pixels", "Pixels waiting for the device", ["task"], registry=registry
        )
        age = "smserve_queue_oldest_age_seconds"
        self.queue_age = registry.declare(
            Gauge(age, "Longest wait so far", ["task"], registry=registry), Merge.MAX
        )
        self.out_of_memory = Counter(
            "smserve_device_out_of_memory",
            "Batches that did not fit into device memory and were repeated in halves",
            ["task", "model"],
            registry=registry,
        )
        self._create_model_metrics()

    def _create_model_metrics(self) -> None:
        registry = self.registry
        self.warm_up_seconds = Gauge(
            "smserve_model_warm_up_seconds",
            "From the loaded model to its readiness",
            ["task", "model"],
            registry=registry,
        )
        self.graphs = Gauge(
            "smserve_model_graphs", "CUDA graphs held", ["task", "model"], registry=registry
        )
        self.memory_cap = Gauge(
            "smserve_batch_memory_cap_images",
            "Smallest limit of a batch that device memory has set; 0: none so far",
            ["task", "model"],
            registry=registry,
        )
        self.model_ready = Gauge(
            "smserve_model_ready", "1 when warmed up", ["task", "model"], registry=registry
        )
        self.model_info = Gauge(
            "smserve_model_info",
            "Always 1",
            ["task", "model", "backend", "device", "dtype", "sha256"],
            registry=registry,
        )
        registry.declare(self.warm_up_seconds, Merge.MAX)
        registry.declare(self.memory_cap, Merge.MAX)
        # ready is what every engine can answer
        registry.declare(self.model_ready, Merge.MIN)
        registry.declare(self.model_info, Merge.SAME)

    def _create_process_metrics(self) -> None:
        registry = self.registry
        self.processes = Gauge(
            "smserve_processes",
            "Child processes alive; none where one process does everything",
            ["process"],
            registry=registry,
        )
        self.restarts = Counter(
            "smserve_process_restarts",
            "Child processes that ended, or were ended, and were started again",
            ["process", "reason"],
            registry=registry,
        )
        for kind in PROCESS_KINDS:
            self.processes.labels(kind)
            for reason in RESTART_REASONS:
                self.restarts.labels(kind, reason)

    def _initialise_tasks(self) -> None:
        for reason in REJECTION_REASONS:
            self.rejected.labels(reason)
        for reason in DROP_REASONS:
            self.dropped.labels(reason)
        for reason in DECODE_ERRORS:
            self.decode_errors.labels(reason)
        # found once: looking up labels costs more than counting
        self._inflight = {task: self.inflight.labels(task) for task in TaskName}
        self._stages = {
            (stage, task): self.stage_duration.labels(stage, task)
            for stage in STAGES
            for task in TaskName
        }
        self._answered: dict[tuple[TaskName, str, int], tuple[Counter, Histogram]] = {}
        for task in TaskName:
            self.expect_requests(task, UNKNOWN_MODEL)

    def expect_requests(self, task: TaskName, model: str) -> None:
        """Create the label sets of requests for a model, wherever it is served."""
        self.request_duration.labels(task, model)
        for code in _CODES:
            self.requests.labels(task, model, str(code))

    def add_model(
        self, task: TaskName, model: str, *, backend: str, device: str, dtype: str, sha256: str
    ) -> None:
        """Create the label sets of a model that is about to be served."""
        self.expect_requests(task, model)
        for outcome in OUTCOMES:
            self.images.labels(task, model, outcome)
        for per_model in (
            self.batch_size,
            self.batches,
            self.pixels,
            self.out_of_memory,
            self.warm_up_seconds,
            self.graphs,
            self.memory_cap,
            self.model_ready,
        ):
            per_model.labels(task, model)
        if model in self._infos:
            # another file of the same model came before
            self.model_info.remove(*self._infos[model])
        self._infos[model] = (task, model, backend, device, dtype, sha256)
        self.model_info.labels(*self._infos[model]).set(1)

    def drop_model(self, task: TaskName, model: str) -> None:
        """A model is no longer served; what it has counted stays."""
        self.model_ready.labels(task, model).set(0)
        self.model_info.remove(*self._infos.pop(model))
        # the functions that were watched hold on to the model, and to its memory
        for watched in (self.graphs, self.memory_cap):
            watched.remove(task, model)
            watched.labels(task, model)

    def watch_queue(
        self,
        *,
        depth: Callable[[TaskName], float],
        pixels: Callable[[TaskName], float],
        oldest_age_s: Callable[[TaskName], float],
    ) -> None:
        """Read the queue's gauges from these functions, on every scrape."""
        readers: Sequence[tuple[Gauge, Callable[[TaskName], float]]] = (
            (self.queue_depth, depth),
            (self.queue_pixels, pixels),
            (self.queue_age, oldest_age_s),
        )
        for task in TaskName:
            for gauge, reader in readers:
                gauge.labels(task).set_function(partial(reader, task))

    def watch_graphs(self, task: TaskName, model: str, count: Callable[[], float]) -> None:
        """Read the number of a model's CUDA graphs from this function, on every scrape."""
        self.graphs.labels(task, model).set_function(count)

    def watch_memory_cap(self, task: TaskName, model: str, cap: Callable[[], float]) -> None:
        """Read a model's limit of a batch from this function, on every scrape."""
        self.memory_cap.labels(task, model).set_function(cap)

    def watch_gpu(self, device: str) -> None:
        """Show the figures of a GPU (`cuda:0`) from now on; at most once for each."""
        gpu = GpuCollector(device)
        self.registry.register(gpu)
        # engines that share a GPU read the same figures
        self.registry.declare(gpu, Merge.MAX)

    def observe_stages(self, task: TaskName, seconds: Mapping[str, float]) -> None:
        """One image went through these stages."""
        for stage, duration in seconds.items():
            self._stages[stage, task].observe(duration)

    @contextmanager
    def in_flight(self, task: TaskName) -> Iterator[None]:
        """Count a request as accepted and not answered, inside the `with`."""
        gauge = self._inflight[task]
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def request_done(self, task: TaskName, model: str, status: int, seconds: float) -> None:
        """A request was answered with this HTTP status."""
        key = (task, model, status)
        children = self._answered.get(key)
        if children is None:
            children = self._answered[key] = (
                self.requests.labels(task, model, str(status)),
                self.request_duration.labels(task, model),
            )
        children[0].inc()
        children[1].observe(seconds)

    def snapshot(self) -> bytes:
        """All metrics of this process, for a `MetricsHub`."""
        return self.registry.snapshot()

    def exposition(self) -> tuple[bytes, str]:
        """The text of the metrics of this process, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_1_0_0
