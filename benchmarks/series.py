"""How many time series a pod shows, counted by building its metrics."""

from collections.abc import Mapping
from typing import Final

from model.config import TaskName
from service.gpu_metrics import FIGURES, INFO
from service.metrics_hub import MetricsHub
from service.telemetry import Metrics

_TASKS: Final = tuple(TaskName)
_OF_THE_GPU: Final = len(FIGURES) + len([INFO])


def count_series(*, models: int, fronts: int, engines: int = 1) -> int:
    """Of a pod with one GPU, before a client asks for something that has no series yet.

    Args:
        models: served, of the three tasks in turn.
        fronts: front end processes; 0: one process does everything.
        engines: engine processes beside them.
    """
    names = [(_TASKS[number % len(_TASKS)], f"model-{number}") for number in range(models)]
    processes: dict[str, Metrics] = {
        f"engine-{number}": _engine(names) for number in range(engines)
    }
    if fronts:
        processes["supervisor"] = Metrics()
        processes |= {f"front-{number}": _front(names) for number in range(fronts)}
        content = _together(processes)
    else:
        content = processes["engine-0"].exposition()[0]
    lines = content.decode().splitlines()
    return sum(not line.startswith("#") for line in lines) + _OF_THE_GPU


def _engine(names: list[tuple[TaskName, str]]) -> Metrics:
    metrics = Metrics()
    for task, name in names:
        metrics.add_model(task, name, backend="", device="", dtype="", sha256="")
    metrics.watch_queue(depth=_none, pixels=_none, oldest_age_s=_none)
    return metrics


def _front(names: list[tuple[TaskName, str]]) -> Metrics:
    metrics = Metrics()
    for task, name in names:
        metrics.expect_requests(task, name)
    return metrics


def _none(task: TaskName) -> float:
    return 0.0


def _together(processes: Mapping[str, Metrics]) -> bytes:
    hub = MetricsHub()
    for name, metrics in processes.items():
        hub.update(name, metrics.snapshot())
    return hub.exposition()[0]
