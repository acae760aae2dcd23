"""Timing on the CPU, and the logic of device events with a clock of our own."""

import time
from collections.abc import Callable

import pytest
import torch

from benchmarks import gpu_timing
from benchmarks.deadline import Deadline
from benchmarks.gpu_timing import (
    CapturedGraph,
    PeakMemory,
    Timing,
    copy_bandwidth,
    matmul_rate,
    time_calls,
    time_wall,
)
from benchmarks.report import Row

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class FakeDevice:
    """A device whose work takes as long as it is told to; stands in for `torch.cuda`."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        device = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = device.now_ms

            def elapsed_time(self, end: "Event") -> float:
                return end.at - self.at

        self.Event = Event

    def work(self, milliseconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now_ms += milliseconds

        return run

    def synchronize(self) -> None:
        self.now_ms += 1000  # a pause between chunks, which no call may be charged for


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    fake = FakeDevice()
    monkeypatch.setattr(torch.cuda, "Event", fake.Event)
    monkeypatch.setattr(torch.cuda, "synchronize", fake.synchronize)
    return fake


def test_rows_of_a_timing() -> None:
    timing = Timing(tuple(float(i) for i in range(101)))
    assert timing.rows("case", 100) == [
        Row("case", "throughput", "images/s", 2000.0),
        Row("case", "latency", "ms", 50.0),
        Row("case", "latency p10", "ms", 10.0),
        Row("case", "latency p90", "ms", 90.0),
    ]
    named = timing.rows("case", 1, "eager", percentiles=(99,))
    assert [row.metric for row in named] == [
        "eager: throughput",
        "eager: latency",
        "eager: latency p99",
    ]


def test_cold_times_are_latencies_by_another_name() -> None:
    rows = Timing((1.0, 3.0), cold_l2=True).rows("case", percentiles=())
    assert rows == [Row("case", "latency, cold L2", "ms", 2.0)]


def test_calls_follow_the_budget() -> None:
    timing = time_calls(lambda: time.sleep(0.002), "cpu", budget_s=0.05)
    assert 5 <= len(timing.milliseconds) <= 25
    assert timing.median >= 2
    slow = time_calls(lambda: time.sleep(0.02), "cpu", budget_s=0.001)
    assert len(slow.milliseconds) == 5


def test_wall_times_follow_the_budget() -> None:
    timing = time_wall(lambda: time.sleep(0.002), "cpu", budget_s=0.05)
    assert 5 <= len(timing.milliseconds) <= 25
    assert len(time_wall(lambda: time.sleep(0.01), "cpu", budget_s=0).milliseconds) == 5


def test_events_of_warm_calls_leave_nothing_out(device: FakeDevice) -> None:
    times = gpu_timing._event_times(device.work(3.0), 4, None)
    assert times == [3.0] * 4


def test_events_of_cold_calls_leave_the_flush_out(device: FakeDevice) -> None:
    times = gpu_timing._event_times(device.work(3.0), 4, device.work(7.0))
    assert times == [3.0] * 4


def test_a_cold_cache_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="needs a CUDA device, got 'cpu'"):
        time_calls(lambda: None, "cpu", cold_l2=True)


def test_ceilings_are_counted_in_bytes_and_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timing, "time_calls", lambda *_, **__: Timing((2.0,)))
    assert copy_bandwidth("cpu", size=2**20) == pytest.approx(2 * 2**20 / 2e-3 / 1e9)
    rate = matmul_rate("cpu", torch.float32, size=64)
    assert rate == pytest.approx(2 * 64**3 / 2e-3 / 1e12)


def test_ceilings_run() -> None:
    assert copy_bandwidth("cpu", size=2**20, budget_s=0.01) > 0
    assert matmul_rate("cpu", torch.bfloat16, size=64, budget_s=0.01) > 0


def test_deadline() -> None:
    assert not Deadline(60).passed
    assert Deadline(0).passed


def test_no_memory_is_counted_off_cuda() -> None:
    with PeakMemory("cpu", 100) as peak:
        pass
    assert peak.rows("case") == []


@pytest.mark.gpu
@needs_gpu
def test_graphs_events_and_memory_on_a_gpu() -> None:
    x = torch.randn(4096, 4096, device="cuda")
    graph = CapturedGraph(lambda: x @ x + 1)
    graph()
    torch.testing.assert_close(graph.outputs, x @ x + 1)
    warm = time_calls(graph, "cuda:0", budget_s=0.1)
    cold = time_calls(graph, "cuda:0", budget_s=0.1, cold_l2=True)
    assert 0.1 < warm.median < 50
    assert 0.1 < cold.median < 50
    with PeakMemory("cuda:0", 2**20) as peak:
        torch.empty(2**26, dtype=torch.int8, device="cuda")
    assert peak.rows("case") == [Row("case", "peak memory", "MiB", 65.0)]
