"""The GPU's figures on /metrics: present when read, absent when there is nothing to read."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from service.gpu_metrics import GpuCollector
from service.telemetry import Metrics
from tests.service.conftest import Start

pytestmark = pytest.mark.anyio

UUID = "0123-abcd"


class FakeNvml:
    """Stands in for the driver; functions named in `failing` answer with an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, prefix: str = "GPU-") -> None:
        self.failing: set[str] = set()
        self.name = prefix + UUID
        functions = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetHandleByUUID": self._handle,
            "nvmlDeviceGetIndex": lambda handle: 5,
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=3e9, total=80e9),
            "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=25),
            "nvmlDeviceGetPowerUsage": lambda handle: 350_500,
        }
        for name, function in functions.items():
            monkeypatch.setattr(pynvml, name, self._guarded(name, function))
        properties = SimpleNamespace(name="Fake GPU", uuid=UUID)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def _guarded(self, name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            if name in self.failing:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return function(*args)

        return call

    def _handle(self, name: str) -> str:
        if name != self.name:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return name


def figures(metrics: Metrics) -> dict[str, float]:
    """The GPU's samples, without their labels."""
    families = metrics.registry.collect()
    samples = [sample for family in families for sample in family.samples]
    return {s.name: s.value for s in samples if s.name.startswith("smserve_gpu_")}


@pytest.mark.parametrize(("prefix", "label"), [("GPU-", "5"), ("MIG-", "2")])
def test_the_device_is_found_by_its_uuid(
    monkeypatch: pytest.MonkeyPatch, prefix: str, label: str
) -> None:
    nvml = FakeNvml(monkeypatch, prefix=prefix)
    # CUDA calls it 2, NVML 5; a part of a GPU has no number there
    nvml.failing = set() if prefix == "GPU-" else {"nvmlDeviceGetIndex"}
    metrics = Metrics()
    metrics.watch_gpu("cuda:2")
    assert figures(metrics) == {
        "smserve_gpu_info": 1,
        "smserve_gpu_memory_used_bytes": 3e9,
        "smserve_gpu_memory_total_bytes": 80e9,
        "smserve_gpu_utilization_ratio": 0.25,
        "smserve_gpu_power_watts": 350.5,
    }
    labels = {"gpu": label, "name": "Fake GPU", "uuid": UUID}
    assert metrics.registry.get_sample_value("smserve_gpu_info", labels) == 1
    text = metrics.exposition()[0].decode()
    assert f'smserve_gpu_utilization_ratio{{gpu="{label}"}} 0.25' in text


def test_a_figure_that_cannot_be_read_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(monkeypatch)
    metrics = Metrics()
    metrics.watch_gpu("cuda:0")
    nvml.failing = {"nvmlDeviceGetUtilizationRates"}
    others = {"smserve_gpu_info", "smserve_gpu_power_watts"}
    memory = {"smserve_gpu_memory_used_bytes", "smserve_gpu_memory_total_bytes"}
    assert set(figures(metrics)) == others | memory
    nvml.failing = {"nvmlDeviceGetMemoryInfo"}
    assert set(figures(metrics)) == others | {"smserve_gpu_utilization_ratio"}


@pytest.mark.parametrize("missing", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_without_a_driver_the_service_has_its_other_metrics(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    FakeNvml(monkeypatch).failing = {missing}
    metrics = Metrics()
    metrics.watch_gpu("cuda:0")
    assert "no GPU metrics" in caplog.text
    assert figures(metrics) == {}
    assert b"smserve_build_info" in metrics.exposition()[0]


def test_a_device_that_torch_does_not_know_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch)

    def unknown(device: str) -> None:
        raise AssertionError("Invalid device id")

    monkeypatch.setattr(torch.cuda, "get_device_properties", unknown)
    assert list(GpuCollector("cuda:7").collect()) == []


async def test_a_service_without_a_gpu_shows_none(start: Start) -> None:
    async with start() as running:
        assert "smserve_gpu_" not in (await running.client.get("/metrics")).text
        labels = {"task": "classify", "model": "stub-classify"}
        assert running.metric("smserve_model_graphs", **labels) == 0
