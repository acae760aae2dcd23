"""Locust's statistics as figures of our own, and whether they are good enough."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from loadtests.locust_users.answers import Outcome, entry_name
from loadtests.locust_users.ledger import Ledger
from loadtests.locust_users.options import Limits
from loadtests.locust_users.shots import TASKS

PERCENTILES: Final = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """One task.

    Attributes:
        ok: requests answered as they should be, mistakes apart.
        mistakes: wrong on purpose and told so rightly.
        failed: everything else but refusals.
        ms: percentiles of `ok`; Locust keeps two digits of each time.
    """

    ok: int
    mistakes: int
    refused: int
    failed: int
    ms: dict[str, float]

    @property
    def requests(self) -> int:
        return self.ok + self.mistakes + self.refused + self.failed


@dataclass(frozen=True, slots=True)
class Summary:
    """One run.

    Attributes:
        seconds: from the start to the last answer.
        rate: right answers per second, mistakes included.
        offered_rate: open loop: requests per second that should have been sent; else 0.
        unsent: open loop: never sent, which counts as failed.
        late_ms: open loop: after their time requests were sent; the time counts as the request's.
        cpu_us_per_request: of the processes that send.
    """

    tasks: dict[str, TaskFigures]
    seconds: float
    rate: float
    images_per_s: float
    offered_rate: float
    unsent: int
    late_ms: dict[str, float]
    cpu_us_per_request: float

    def total(self, what: str) -> int:
        """Of all tasks: `ok`, `mistakes`, `refused` or `failed`."""
        return sum(getattr(figures, what) for figures in self.tasks.values())

    @property
    def requests(self) -> int:
        return sum(figures.requests for figures in self.tasks.values())

    @property
    def error_ratio(self) -> float:
        return self.total("failed") / max(1, self.requests)

    @property
    def refused_ratio(self) -> float:
        return self.total("refused") / max(1, self.requests)

    def as_json(self) -> dict[str, Any]:
        ratios = {"error_ratio": self.error_ratio, "refused_ratio": self.refused_ratio}
        return {"requests": self.requests, **ratios, **asdict(self)}


def summarise(stats: Any, ledger: Ledger, num_spawners: int) -> Summary:
    """Of all processes.

    Args:
        stats: Locust's `RequestStats`, of the master in a distributed run.
        num_spawners: users of the open loop.
    """
    tasks = {task: _figures(stats, task) for task in TASKS}
    last = stats.last_request_timestamp or stats.start_time
    seconds = max(last - stats.start_time, 1e-9)
    right = sum(one.ok + one.mistakes for one in tasks.values())
    late = {f"p{percent}": ledger.late.percentile(percent) for percent in PERCENTILES}
    late["max"] = ledger.late.max
    return Summary(
        tasks={task: one for task, one in tasks.items() if one.requests},
        seconds=seconds,
        rate=right / seconds,
        images_per_s=ledger.images / seconds,
        offered_rate=ledger.offered / ledger.spawner_s * num_spawners if ledger.spawner_s else 0.0,
        unsent=ledger.unsent,
        late_ms={name: round(1e3 * value, 3) for name, value in late.items()},
        cpu_us_per_request=1e6 * ledger.cpu_s / max(1, ledger.requests),
    )


def _figures(stats: Any, task: str) -> TaskFigures:
    # `stats.get` would add what is missing
    entries = {one: stats.entries.get((entry_name(task, one), "POST")) for one in Outcome}
    numbers = {one: entry.num_requests if entry else 0 for one, entry in entries.items()}
    right = entries[Outcome.OK]
    return TaskFigures(
        ok=numbers[Outcome.OK],
        mistakes=numbers[Outcome.MISTAKE],
        refused=numbers[Outcome.REFUSED],
        failed=numbers[Outcome.FAILED],
        ms={
            f"p{percent}": float(right.get_response_time_percentile(percent / 100) or 0.0)
            for percent in PERCENTILES
        }
        if right
        else {},
    )


def broken(summary: Summary, limits: Limits) -> Iterator[str]:
    """What is worse than allowed, a line each."""
    if not summary.total("ok"):
        yield "no request was answered as it should be"
    ratios = (
        ("errors", summary.error_ratio, limits.error_ratio),
        ("refused requests", summary.refused_ratio, limits.refused_ratio),
    )
    for what, ratio, most in ratios:
        if most is not None and ratio > most:
            yield f"share of {what} is {ratio:.4f}, at most {most:g} allowed"
    if limits.min_rate is not None and summary.rate < limits.min_rate:
        yield f"rate is {summary.rate:.2f} right answers/s, at least {limits.min_rate:g} wanted"
    for task, most in limits.p99_ms.items():
        if task not in summary.tasks:
            continue
        p99 = summary.tasks[task].ms.get("p99")
        if p99 is None:
            yield f"{task} has no p99: no request was answered as it should be"
        elif p99 > most:
            yield f"p99 of {task} is {p99:g} ms, at most {most:g} ms allowed"
