"""From the profiler's sums to rows, table and work list."""

from types import SimpleNamespace

import pytest

from benchmarks.bench_kernels import KernelUse, collect, rows_of, table, work_list
from benchmarks.report import Row

COPY = 3000.0
FAST = KernelUse("fast", 4, 100.0, 270_000_000)  # 2700 GB/s
SLOW = KernelUse("slow", 2, 60.0, 90_000_000)  # 1500 GB/s, 30 us more than at 3000
SLOWER = KernelUse("slower", 1, 40.0, 12_000_000)  # 300 GB/s, 36 us more
UNKNOWN = KernelUse("library", 3, 200.0)


def event(name: str, count: int, total: float, kind: str = "CUDA") -> SimpleNamespace:
    return SimpleNamespace(
        key=name,
        count=count,
        self_device_time_total=total,
        device_type=SimpleNamespace(name=kind),
    )


def test_sums_become_kernels_of_one_pass() -> None:
    events = [event("b", 10, 50.0), event("aten::mm", 5, 0.0, "CPU"), event("a", 5, 500.0)]
    assert collect(events, 5, {"a": 7}.get) == [
        KernelUse("a", 1, 100.0, 7),
        KernelUse("b", 2, 10.0),
    ]


def test_bandwidth_and_waste() -> None:
    assert FAST.bandwidth == pytest.approx(2700)
    assert SLOW.wasted(COPY) == pytest.approx(30)
    assert (UNKNOWN.bandwidth, UNKNOWN.wasted(COPY)) == (None, 0.0)


def test_the_work_list_has_the_largest_saving_first() -> None:
    assert work_list([FAST, SLOW, SLOWER, UNKNOWN], COPY) == [SLOWER, SLOW]


def test_rows() -> None:
    rows = rows_of("case", [UNKNOWN, FAST], COPY)
    assert rows[:2] == [
        Row("case", "all kernels: time", "us", 300),
        Row("case", "copy", "GB/s", COPY),
    ]
    metrics = {row.metric: row.value for row in rows[2:]}
    assert metrics["fast: share of time"] == pytest.approx(1 / 3)
    assert metrics["fast: share of copy bandwidth"] == pytest.approx(0.9)
    assert not any(name.startswith("library: ") and "bandwidth" in name for name in metrics)


def test_table() -> None:
    lines = table([SLOW, UNKNOWN], COPY, 400.0).splitlines()
    assert lines[2] == "| `slow` | 2 | 60 | 15.0% | 1,500 | 50% | 30 |"
    assert lines[3] == "| `library` | 3 | 200 | 50.0% |  |  |  |"
