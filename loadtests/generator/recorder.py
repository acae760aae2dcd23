"""What became of the requests of one process, and of all processes together."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from loadtests.generator.histogram import LatencyHistogram

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)


class Record(NamedTuple):
    """One request; times are `time.monotonic()` seconds, the same clock in all processes.

    Attributes:
        payload: index of what was sent.
        intended: when it should have been sent.
        sent: when its last attempt was.
        status: of the answer, 0 without one.
        kind: of failure: `refused`, `reset`, `closed`, `malformed`, `timeout`, `abandoned`,
            `no_connection`; empty with an answer.
    """

    payload: int
    intended: float
    sent: float
    settled: float
    status: int
    kind: str
    attempts: int


class KeptAnswer(NamedTuple):
    """An answer with its content."""

    payload: int
    status: int
    seconds: float
    server_timing: str
    body: bytes


@dataclass(slots=True)
class LoadResult:
    """Figures of a run, or of a part of it that can be merged into the whole.

    Attributes:
        seconds: that were measured: the run without its warm-up.
        latencies: by status, from the intended time of sending to the end of the answer.
        errors: requests without an answer, by kind.
        retries: attempts that were repeated, by status or kind.
        images: in requests that were answered with 2xx.
        timeline: settled requests of every second by status or kind, warm-up included.
        offered: requests that should have been sent.
        late: longest delay between the intended and the actual time of the first attempt, seconds.
        cpu_s: that the generator used, for all requests of the run.
        requests: all of the run, warm-up included.
    """

    seconds: float = 0.0
    latencies: dict[int, LatencyHistogram] = field(
        default_factory=lambda: defaultdict(LatencyHistogram)
    )
    errors: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    images: int = 0
    timeline: list[Counter[str]] = field(default_factory=list)
    offered: int = 0
    late: float = 0.0
    cpu_s: float = 0.0
    requests: int = 0
    records: list[Record] = field(default_factory=list)
    answers: list[KeptAnswer] = field(default_factory=list)

    def merge(self, other: "LoadResult") -> None:
        """Add the figures of another process of the same run."""
        self.seconds = max(self.seconds, other.seconds)
        for status, histogram in other.latencies.items():
            self.latencies[status].merge(histogram)
        self.errors += other.errors
        self.retries += other.retries
        for second, counts in enumerate(other.timeline):
            if second == len(self.timeline):
                self.timeline.append(Counter())
            self.timeline[second] += counts
        self.images += other.images
        self.offered += other.offered
        self.late = max(self.late, other.late)
        self.cpu_s += other.cpu_s
        self.requests += other.requests
        self.records += other.records
        self.answers += other.answers

    @property
    def statuses(self) -> dict[int, int]:
        """Answers by status."""
        return {status: len(one) for status, one in sorted(self.latencies.items())}

    @property
    def accepted(self) -> LatencyHistogram:
        """Latencies of all 2xx answers."""
        merged = LatencyHistogram()
        for status, histogram in self.latencies.items():
            if 200 <= status < 300:
                merged.merge(histogram)
        return merged

    @property
    def images_per_s(self) -> float:
        """Of requests that were answered with 2xx."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def cpu_us_per_request(self) -> float:
        """Microseconds of the generator's own work."""
        return 1e6 * self.cpu_s / max(1, self.requests)


class Recorder:
    """Collects in plain lists, which are cheap, and files them into histograms once a second."""

    def __init__(self, *, measured_from: float, keep_records: bool, keep_answers: int) -> None:
        self.result = LoadResult()
        self._measured_from = measured_from
        self._keep_records = keep_records
        self._answers_left = keep_answers
        self._pending: defaultdict[int, list[float]] = defaultdict(list)
        self._second: Counter[str] = Counter()

    def settle(self, record: Record, images: int, answer: KeptAnswer | None) -> None:
        """Count one request, finally."""
        result = self.result
        result.requests += 1
        self._second[record.kind or str(record.status)] += 1
        if self._keep_records:
            result.records.append(record)
        if answer is not None and self._answers_left:
            self._answers_left -= 1
            result.answers.append(answer)
        if record.intended < self._measured_from:
            return
        if record.kind:
            result.errors[record.kind] += 1
            return
        self._pending[record.status].append(record.settled - record.intended)
        if 200 <= record.status < 300:
            result.images += images

    @property
    def wants_answers(self) -> bool:
        return self._answers_left > 0

    def end_second(self) -> Counter[str]:
        """File what has come; returns the second's counts."""
        for status, seconds in self._pending.items():
            self.result.latencies[status].add(seconds)
            seconds.clear()
        counts, self._second = self._second, Counter()
        self.result.timeline.append(counts)
        return counts
