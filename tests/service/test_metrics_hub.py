"""Metrics of several processes as one: against a model that remembers every process."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from model.config import TaskName
from service.metrics_hub import MetricsHub
from service.metrics_snapshot import Merge, MergingRegistry, parse_snapshot
from service.telemetry import Metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
LABELS = ("a", 'b"\\\n')
BUCKETS = (1.0, 2.0)


class Process:
    """A process with one metric of each kind, and what it has told so far."""

    def __init__(self) -> None:
        self.registry = MergingRegistry()
        registry = self.registry
        self.counter = Counter("work", "Work", ["kind"], registry=registry)
        self.histogram = Histogram("size", "Size", buckets=BUCKETS, registry=registry)
        self.total = Gauge("total", "Sum", registry=registry)
        self.most = registry.declare(Gauge("most", "Max", registry=registry), Merge.MAX)
        self.least = registry.declare(Gauge("least", "Min", registry=registry), Merge.MIN)
        self.same = registry.declare(Gauge("same", "Same", registry=registry), Merge.SAME)
        self.each = registry.declare(Gauge("each", "Each", registry=registry), Merge.EACH)
        self.same.set(1)

    def work(self, label: str, amount: int) -> None:
        self.counter.labels(label).inc(amount)
        self.histogram.observe(amount)
        for gauge in (self.total, self.most, self.least, self.each):
            gauge.set(amount)

    def told(self) -> Samples:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.registry.collect()
            for sample in family.samples
        }


@dataclass
class Model:
    """Remembers the last report of every process there has been."""

    counted: dict[int, Samples] = field(default_factory=dict)
    living: dict[str, int] = field(default_factory=dict)

    def expected(self) -> Samples:
        totals: Samples = {}
        for samples in self.counted.values():
            for key, value in samples.items():
                if key[0] in ("work_total", "size_bucket", "size_count", "size_sum"):
                    totals[key] = totals.get(key, 0.0) + value
                elif key[0].endswith("_created"):
                    totals[key] = min(value, totals.get(key, value))
        alive = {name: self.counted[number] for name, number in self.living.items()}
        for name, choose in (("total", sum), ("most", max), ("least", min), ("same", max)):
            if alive:
                totals[name, ()] = choose([one[name, ()] for one in alive.values()])
        for process, samples in alive.items():
            totals["each", (("process", process),)] = samples["each", ()]
        return totals


def exposed(hub: MetricsHub) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(hub)
        for sample in family.samples
    }


def families(hub: MetricsHub) -> Iterator[Metric]:
    yield from text_string_to_metric_families(hub.exposition()[0].decode())


NAMES = st.sampled_from(["engine-0", "front-0", "front-1"])
STEPS = st.one_of(
    st.tuples(st.just("work"), NAMES, st.sampled_from(LABELS), st.integers(0, 9)),
    st.tuples(st.just("tell"), NAMES),
    st.tuples(st.just("tell late"), NAMES),
    st.tuples(st.just("restart"), NAMES),
    st.tuples(st.just("gone"), NAMES),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=60))
def test_totals_are_those_of_all_processes_and_never_go_back(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    hub, model = MetricsHub(), Model()
    processes = {name: Process() for name in ("engine-0", "front-0", "front-1")}
    taken: dict[str, bytes] = {}
    late: dict[str, bytes] = {}
    before: Samples = {}
    for action, name, *arguments in steps:
        process = processes[name]
        if action == "work":
            taken[name] = process.registry.snapshot()
            process.work(*arguments)
        elif action == "tell":
            if name in taken:
                late[name] = taken.pop(name)
            hub.update(name, process.registry.snapshot())
            model.counted[id(process)] = process.told()
            model.living[name] = id(process)
        elif action == "tell late" and name in late:
            hub.update(name, late[name])
        elif action == "restart":
            taken.pop(name, None)
            # nobody says that the old one is gone; the new one's first report does
            processes[f"{name}, ended {len(processes)}"] = process
            processes[name] = Process()
        elif action == "gone" and name in model.living:
            taken.pop(name, None)
            hub.gone(name)
            del model.living[name]
            processes[f"{name}, ended {len(processes)}"] = process
            processes[name] = Process()
        now = exposed(hub)
        assert now == model.expected()
        for key, value in before.items():
            if key[0] in ("work_total", "size_bucket", "size_count", "size_sum"):
                assert now[key] >= value, key
        before = now


def filled() -> Metrics:
    metrics = Metrics()
    for task in TaskName:
        metrics.add_model(
            task, f"m-{task}", backend="torch", device="cpu", dtype="float32", sha256="ab"
        )
    return metrics


def test_one_process_looks_the_same_as_without_a_hub() -> None:
    metrics, hub = filled(), MetricsHub()
    metrics.observe_stages(TaskName.DETECT, {"read": 0.003})
    hub.update("engine-0", metrics.snapshot())
    alone, media_type = metrics.exposition()
    together, same_media_type = hub.exposition()
    assert media_type == same_media_type
    assert media_type.startswith("text/plain; version=1.0.0")

    def ours(text: bytes) -> list[Metric]:
        found = text_string_to_metric_families(text.decode())
        return sorted((f for f in found if f.name.startswith("smserve_")), key=lambda f: f.name)

    assert ours(together) == ours(alone)


def test_the_rules_of_the_services_own_metrics() -> None:
    hub, engines, front = MetricsHub(), [filled(), filled()], Metrics()
    for number, engine in enumerate(engines):
        engine.queue_depth.labels("detect").set(3 + number)
        engine.queue_age.labels("detect").set(0.5 + number)
        engine.warm_up_seconds.labels("detect", "m-detect").set(10 + number)
        engine.model_ready.labels("detect", "m-detect").set(number)
        engine.graphs.labels("detect", "m-detect").set(4)
    front.draining.set(1)
    front.inflight.labels("detect").set(5)
    for name, metrics in zip(("engine-0", "engine-1", "front-0"), [*engines, front], strict=True):
        hub.update(name, metrics.snapshot())
    samples = exposed(hub)
    model = (("model", "m-detect"), ("task", "detect"))
    assert samples["smserve_queue_depth", (("task", "detect"),)] == 7
    assert samples["smserve_queue_oldest_age_seconds", (("task", "detect"),)] == 1.5
    assert samples["smserve_model_warm_up_seconds", model] == 11
    assert samples["smserve_model_ready", model] == 0
    assert samples["smserve_model_graphs", model] == 8
    assert samples["smserve_draining", ()] == 1
    assert samples["smserve_inflight_requests", (("task", "detect"),)] == 5
    names = [name for name, _ in samples]
    assert names.count("smserve_build_info") == names.count("python_info") == 1
    assert names.count("smserve_model_info") == 3
    memory = {labels for name, labels in samples if name == "process_resident_memory_bytes"}
    assert memory == {(("process", one),) for one in ("engine-0", "engine-1", "front-0")}
    hub.gone("engine-0")
    samples = exposed(hub)
    assert samples["smserve_model_ready", model] == 1
    assert ("process_resident_memory_bytes", (("process", "engine-0"),)) not in samples


def test_buckets_stay_together_and_in_order() -> None:
    hub = MetricsHub()
    for name, labels in (("a", ("x", "y")), ("b", ("y", "z"))):
        registry = MergingRegistry()
        sizes = Histogram("size", "Size", ["kind"], buckets=(1, 2, 10), registry=registry)
        for label in labels:
            sizes.labels(label).observe(5)
        hub.update(name, registry.snapshot())
    (family,) = [family for family in families(hub) if family.name == "size"]
    buckets = [s for s in family.samples if s.name == "size_bucket"]
    assert [(s.labels["kind"], s.labels["le"], s.value) for s in buckets] == [
        (kind, le, float(value))
        for kind, number in (("x", 1), ("y", 2), ("z", 1))
        for le, value in (("1.0", 0), ("2.0", 0), ("10.0", number), ("+Inf", number))
    ]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_values_that_json_does_not_know_arrive(value: float) -> None:
    registry = MergingRegistry()
    Gauge("odd", "Odd", registry=registry).set(value)
    (family,) = parse_snapshot(registry.snapshot()).families
    assert family.samples["odd", ()] == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'["a",1]', b'["a",1,[["x"]]]'])
def test_what_is_not_a_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="snapshot"):
        MetricsHub().update("engine-0", data)


def test_a_dead_process_cannot_come_back_under_its_old_instance() -> None:
    hub, process = MetricsHub(), Process()
    process.work("a", 5)
    last = process.registry.snapshot()
    hub.update("engine-0", last)
    hub.gone("engine-0")
    hub.update("engine-0", process.registry.snapshot())
    assert exposed(hub)["work_total", (("kind", "a"),)] == 5
