"""The metrics of one process as bytes, for the process that adds them up."""

import itertools
import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CollectorT = TypeVar("CollectorT", bound=Collector)
# JSON has no words for these
_NOT_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Merge(StrEnum):
    """What the values of one metric in several processes come to.

    Counters and histograms are always added, except with EACH and SAME.

    Attributes:
        SUM: of a gauge: the sum over the living processes.
        MAX: of a gauge: the largest of them.
        MIN: of a gauge: the smallest of them.
        SAME: it is the same in every process, so it is shown once.
        EACH: shown for every living process, with the label `process`.
    """

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    SAME = "same"
    EACH = "each"


class MergingRegistry(CollectorRegistry):
    """A registry that knows how its metrics are merged with those of other processes.

    A rule is given where a metric is made: `registry.declare(Gauge(..., registry=registry),
    Merge.MAX)`. Whatever has none is added up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._instance = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._collectors: dict[Collector, Merge] = {}

    def register(self, collector: Collector) -> None:
        """Add a collector; metrics do it themselves when they are made."""
        super().register(collector)
        self._collectors[collector] = Merge.SUM

    def unregister(self, collector: Collector) -> None:
        """Take a collector away."""
        super().unregister(collector)
        del self._collectors[collector]

    def declare(self, collector: CollectorT, merge: Merge) -> CollectorT:
        """Give everything of a registered collector this rule; returns the collector."""
        self._collectors[collector] = merge
        return collector

    def snapshot(self) -> bytes:
        """Everything the registry collects now, with names, types, texts and rules, as JSON.

        The registry itself and a running number are named in it, so that a process that came
        back under its old name, and a snapshot that was overtaken by a later one, are noticed.
        """
        families = [
            _packed(family, merge)
            for collector, merge in list(self._collectors.items())
            for family in collector.collect()
        ]
        return orjson.dumps([self._instance, next(self._numbers), families])


def _packed(family: Metric, merge: Merge) -> list[Any]:
    samples = [
        [name, list(labels), list(labels.values()), _packed_value(value)]
        for name, labels, value, *_ in family.samples
    ]
    return [family.name, family.type, family.documentation, family.unit, merge, samples]


def _packed_value(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))


SampleKey = tuple[str, tuple[tuple[str, str], ...]]
"""Name of a sample and its labels, in the order of their definition."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric of one process.

    Attributes:
        kind: Prometheus type, e.g. `counter`.
        text: its help.
    """

    name: str
    kind: str
    text: str
    unit: str
    merge: Merge
    samples: dict[SampleKey, float]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All metrics of one process at one time.

    Attributes:
        instance: of the registry; a new one for each start of a process.
        number: grows from snapshot to snapshot of one instance.
    """

    instance: str
    number: int
    families: tuple[Family, ...]


def parse_snapshot(data: bytes) -> Snapshot:
    """What `MergingRegistry.snapshot` has written.

    Raises:
        ValueError: it was not.
    """
    try:
        instance, number, families = orjson.loads(data)
        return Snapshot(str(instance), int(number), tuple(_families(families)))
    except (TypeError, ValueError, KeyError) as exc:
        raise ValueError(f"not a snapshot of metrics: {exc}") from exc


def _families(packed: list[Any]) -> Iterator[Family]:
    for name, kind, text, unit, merge, samples in packed:
        yield Family(
            name,
            kind,
            text,
            unit,
            Merge(merge),
            {
                (sample, tuple(zip(labels, values, strict=True))): (
                    _NOT_FINITE[value] if isinstance(value, str) else value
                )
                for sample, labels, values, value in samples
            },
        )
