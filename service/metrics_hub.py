"""One `/metrics` for several processes: what they counted is added up, and never lost again."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from prometheus_client.metrics_core import Metric

from service.metrics_snapshot import Family, Merge, SampleKey, Snapshot, parse_snapshot

_ADDED: Final = frozenset({"counter", "histogram", "summary"})
_PROCESS_LABEL: Final = "process"
_CHOOSE: Final[Mapping[Merge, Callable[[float, float], float]]] = {
    Merge.SUM: lambda one, other: one + other,
    Merge.MAX: max,
    Merge.MIN: min,
}


@dataclass(slots=True)
class _Merged:
    """One metric over all processes, as far as it has been put together."""

    like: Family
    samples: dict[SampleKey, float] = field(default_factory=dict)

    @property
    def lasts(self) -> bool:
        """What a process has counted stays when it is gone."""
        return self.like.kind in _ADDED and self.like.merge not in (Merge.EACH, Merge.SAME)

    def add(self, process_id: str, family: Family) -> None:
        samples, merge = self.samples, self.like.merge
        if merge is Merge.EACH:
            for (name, labels), value in family.samples.items():
                samples[name, (*labels, (_PROCESS_LABEL, process_id))] = value
        elif merge is Merge.SAME:
            for key, value in family.samples.items():
                samples.setdefault(key, value)
        else:
            choose = _CHOOSE[Merge.SUM if self.lasts else merge]
            created = f"{self.like.name}_created"
            for key, value in family.samples.items():
                if key not in samples:
                    samples[key] = value
                elif self.lasts and key[0] == created:
                    # the sum has been counted since the first process began, without a reset
                    samples[key] = min(samples[key], value)
                else:
                    samples[key] = choose(samples[key], value)

    def copy(self) -> "_Merged":
        return _Merged(self.like, dict(self.samples))

    def metric(self) -> Metric:
        family = Metric(self.like.name, self.like.text, self.like.kind, self.like.unit)
        for (name, labels), value in self.samples.items():
            family.add_sample(name, dict(labels), value)
        return family


class MetricsHub:
    """The sum of the metrics of processes that come, count, and go.

    - Counters and histograms are sums over all processes there have ever been, so they never go
      back. What a process counted after its last snapshot is lost when it dies.
    - Gauges are those of the living processes, merged by the rule of each (`Merge`).

    Belongs to one thread.
    """

    def __init__(self) -> None:
        self._living: dict[str, Snapshot] = {}
        self._gone: dict[str, _Merged] = {}
        self._ended: set[str] = set()

    def update(self, process_id: str, snapshot: bytes) -> None:
        """Take the latest snapshot of a process, e.g. of `engine-0`.

        A snapshot that comes late, after a newer one or after the process was gone, changes
        nothing. One of a new instance says that the old one is gone.

        Raises:
            ValueError: not a snapshot.
        """
        new = parse_snapshot(snapshot)
        if new.instance in self._ended:
            return
        old = self._living.get(process_id)
        if old is not None:
            if old.instance != new.instance:
                self.gone(process_id)
            elif old.number >= new.number:
                return
        self._living[process_id] = new

    def gone(self, process_id: str) -> None:
        """The process has ended; what it counted stays, its gauges do not."""
        last = self._living.pop(process_id, None)
        if last is None:
            return
        self._ended.add(last.instance)
        for family in last.families:
            merged = self._gone.get(family.name) or _Merged(family)
            if merged.lasts:
                merged.add(process_id, family)
                self._gone[family.name] = merged

    def exposition(self) -> tuple[bytes, str]:
        """The text of the metrics of all processes together, and its media type."""
        return generate_latest(_Fixed(self._merged())), CONTENT_TYPE_PLAIN_1_0_0

    def _merged(self) -> list[Metric]:
        merged: dict[str, _Merged] = {name: past.copy() for name, past in self._gone.items()}
        for process_id, snapshot in self._living.items():
            for family in snapshot.families:
                whole = merged.setdefault(family.name, _Merged(family))
                whole.add(process_id, family)
        return [whole.metric() for _, whole in sorted(merged.items())]


class _Fixed(CollectorRegistry):
    """Metrics that are put together already."""

    def __init__(self, metrics: list[Metric]) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
