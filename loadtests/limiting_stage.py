"""Which stage of the service a load ran into, from its /metrics before and after.

The service measures how long each image spends in each stage. Waiting for the device is a stage of
its own, the queue: it says that the device is the limit, not which work keeps it busy. Waiting for
a processor core has none: it is part of the stages that need one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from loadtests.scrape import Scrape

STAGES: Final = ("read", "decode", "queue", "infer", "postprocess", "encode")
# sending the answer; also all the time of requests that were refused, or whose client left
OTHER: Final = "other"
_STAGE: Final = "smserve_stage_duration_seconds"
_REQUEST: Final = "smserve_request_duration_seconds"
_BATCH: Final = "smserve_batch_size_images"
_CPU: Final = "process_cpu_seconds_total"
_WORTH_NAMING: Final = 0.1


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """Where the time of one task went.

    Attributes:
        requests: that were answered, whatever with.
        images: that the device computed.
        seconds: of all images together, by stage; only stages that took any time.
        other_s: of all requests together, beyond the stages.
        device_s: that the device was busy with this task.
    """

    task: str
    requests: int
    images: int
    seconds: Mapping[str, float]
    other_s: float
    device_s: float

    def share(self, stage: str) -> float:
        """Of this task's time."""
        return self.seconds.get(stage, 0.0) / (sum(self.seconds.values()) or 1.0)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a load did to the service.

    Attributes:
        seconds: between the two scrapes.
        engines: processes that compute.
        cpu_cores: that the service kept busy, by process; `service` where there is one process.
        counts: what was refused, dropped and not decoded, by metric and reason, above 0.
    """

    seconds: float
    tasks: tuple[TaskTimes, ...]
    engines: int
    cpu_cores: Mapping[str, float]
    counts: Mapping[str, int]

    @property
    def device_busy(self) -> float:
        """Share of the time, over all engines."""
        busy = sum(one.device_s for one in self.tasks) / (self.seconds * self.engines or 1.0)
        return min(1.0, busy)

    @property
    def limit(self) -> tuple[TaskTimes, str] | None:
        """Task and stage that took most time; where that is the queue, whoever keeps it waiting."""
        spent = [(s, one, stage) for one in self.tasks for stage, s in one.seconds.items()]
        if not spent:
            return None
        _, task, stage = max(spent, key=lambda entry: entry[0])
        if stage == "queue":
            return max(self.tasks, key=lambda one: one.device_s), "infer"
        return task, stage

    @property
    def sentence(self) -> str:
        """For people."""
        if self.limit is None:
            return "no limiting stage: the service has computed nothing"
        task, stage = self.limit
        parts = [f"limited by {stage} of {task.task}: {_percent(task.share(stage))} of the time "
                 "of a request"]  # fmt: skip
        others = sorted(task.seconds, key=task.share, reverse=True)
        parts += [
            f"{name} {_percent(task.share(name))}"
            for name in others
            if name != stage and task.share(name) >= _WORTH_NAMING
        ]
        device = f"the device was busy {_percent(self.device_busy)} of the time"
        total = sum(one.device_s for one in self.tasks)
        if stage == "infer" and len(self.tasks) > 1 and total:
            device += f", {_percent(task.device_s / total)} of it with {task.task}"
        return "; ".join([*parts, device])

    def lines(self) -> list[str]:
        """The sentence, and the figures behind it."""
        found = [self.sentence, ""]
        headings = "".join(f"{name:>13}" for name in (*STAGES, OTHER))
        found.append(f"{'':10}{'requests':>9}{'images':>9}{headings}")
        for one in self.tasks:
            seconds = [*(one.seconds.get(name, 0.0) for name in STAGES), one.other_s]
            cells = (f"{1e3 * spent / max(1, one.images):,.1f} ms" for spent in seconds)
            row = f"{one.task:10}{one.requests:9}{one.images:9}"
            found.append(row + "".join(f"{cell:>13}" for cell in cells))
        cores = ", ".join(f"{name} {used:.2f}" for name, used in self.cpu_cores.items())
        found.append(f"processor cores in use: {cores or 'unknown'}; engines: {self.engines}")
        if self.counts:
            found.append(", ".join(f"{name}: {n}" for name, n in self.counts.items()))
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "sentence": self.sentence,
            "task": self.limit[0].task if self.limit else None,
            "stage": self.limit[1] if self.limit else None,
            "device_busy": round(self.device_busy, 4),
            **asdict(self),
            "tasks": {
                one.task: {
                    **asdict(one),
                    "share": {stage: round(one.share(stage), 4) for stage in one.seconds},
                }
                for one in self.tasks
            },
        }


def explain(before: Scrape, after: Scrape, seconds: float) -> Explanation:
    """What happened between two scrapes of the same service.

    A service that was restarted in between has counted from 0 again: what comes out is too little.

    Args:
        seconds: from one to the other.
    """
    tasks = sorted(set(after.label_values(_STAGE + "_sum", "task")))
    times = (_task_times(before, after, task) for task in tasks)
    return Explanation(
        seconds=seconds,
        tasks=tuple(one for one in times if one.requests),
        engines=max(1, round(after.total("smserve_processes", process="engine"))),
        cpu_cores=_cpu_cores(before, after, seconds),
        counts=_counts(before, after),
    )


def _task_times(before: Scrape, after: Scrape, task: str) -> TaskTimes:
    def grown(name: str, **labels: str) -> float:
        found = after.total(name, task=task, **labels) - before.total(name, task=task, **labels)
        return max(0.0, found)

    seconds = {stage: grown(f"{_STAGE}_sum", stage=stage) for stage in STAGES}
    batches, images = grown(f"{_BATCH}_count"), grown(f"{_BATCH}_sum")
    return TaskTimes(
        task=task,
        requests=round(grown(f"{_REQUEST}_count")),
        images=round(images),
        seconds={stage: one for stage, one in seconds.items() if one},
        # pictures of one request are worked on side by side, so stages may take longer than it
        other_s=max(0.0, grown(f"{_REQUEST}_sum") - sum(seconds.values())),
        # every image counts the whole time of its batch
        device_s=seconds["infer"] * batches / images if images else 0.0,
    )


def _cpu_cores(before: Scrape, after: Scrape, seconds: float) -> dict[str, float]:
    processes = after.label_values(_CPU, "process")
    if not processes:
        used = after.total(_CPU) - before.total(_CPU)
        return {"service": used / seconds} if after.has(_CPU) else {}
    return {
        name: (after.total(_CPU, process=name) - before.total(_CPU, process=name)) / seconds
        for name in sorted(set(processes))
    }


def _counts(before: Scrape, after: Scrape) -> dict[str, int]:
    found = {}
    for what in ("rejected", "dropped", "decode_errors"):
        name = f"smserve_{what}_total"
        for reason in sorted(set(after.label_values(name, "reason"))):
            number = after.total(name, reason=reason) - before.total(name, reason=reason)
            if number > 0:
                found[f"{what.replace('_', ' ')} {reason}"] = round(number)
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
