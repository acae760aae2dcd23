"""How busy the machine was."""

import time

import pynvml
import pytest

from loadtests.machine_watch import MachineWatch
from tests.service.test_gpu_metrics import FakeNvml


def watch(seconds: float, *, works: bool) -> dict[str, float]:
    with MachineWatch() as machine:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not works:
                time.sleep(0.05)
    return {row.metric: row.value for row in machine.rows("x")}


def test_a_busy_thread_is_a_core() -> None:
    # another program may take part of the core, which is then busy all the same
    assert watch(0.6, works=True)["cores busy"] > 0.7


def test_a_gpu_is_told_by_the_name_it_is_seen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: f"handle {index}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert watch(0.5, works=False)["gpu 3 busy"] == 0.25


def test_a_gpu_without_the_figure_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(monkeypatch)
    nvml.failing.add("nvmlDeviceGetUtilizationRates")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert set(watch(0.3, works=False)) == {"cores busy"}


def test_without_a_driver_the_cores_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(monkeypatch)
    nvml.failing.add("nvmlInit")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert set(watch(0.1, works=False)) == {"cores busy"}
