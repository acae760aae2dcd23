"""The GPU's own figures on `/metrics`, read from its driver when scraped."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pynvml
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Figure:
    """A gauge with the label `gpu`.

    Attributes:
        read: driver's handle of the GPU -> value.
    """

    name: str
    text: str
    read: Callable[[Any], float]


INFO: Final = ("smserve_gpu_info", "Always 1", ("gpu", "name", "uuid"))
FIGURES: Final = (
    Figure(
        "smserve_gpu_memory_used_bytes",
        "Device memory in use, by all processes",
        lambda handle: pynvml.nvmlDeviceGetMemoryInfo(handle).used,
    ),
    Figure(
        "smserve_gpu_memory_total_bytes",
        "Device memory",
        lambda handle: pynvml.nvmlDeviceGetMemoryInfo(handle).total,
    ),
    Figure(
        "smserve_gpu_utilization_ratio",
        "Part of the last second or less in which a kernel was running",
        lambda handle: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
    ),
    Figure(
        "smserve_gpu_power_watts",
        "Power drawn by the whole board",
        lambda handle: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    ),
)


class GpuCollector(Collector):
    """Memory, utilisation and power of one GPU; a figure that cannot be read is left out.

    Args:
        device: as torch names it, e.g. `cuda:0`.
    """

    def __init__(self, device: str) -> None:
        self._gpu = device.partition(":")[2] or "0"
        self._handle: Any = None
        try:
            self._name, self._uuid = _name_and_uuid(device)
            pynvml.nvmlInit()
            self._handle = _find_handle(self._uuid)
            self._gpu = _index(self._handle) or self._gpu
        except Exception as exc:  # noqa: BLE001 - metrics of the GPU are no reason not to serve
            log.warning("no GPU metrics", extra={"device": device, "reason": str(exc)})

    def collect(self) -> Iterable[Metric]:
        if self._handle is None:
            return
        name, text, labels = INFO
        info = GaugeMetricFamily(name, text, labels=labels)
        info.add_metric([self._gpu, self._name, self._uuid], 1)
        yield info
        for figure in FIGURES:
            yield from self._family(figure)

    def _family(self, figure: Figure) -> Iterator[Metric]:
        try:
            value = figure.read(self._handle)
        except pynvml.NVMLError as exc:
            log.debug("NVML failed", extra={"metric": figure.name, "reason": str(exc)})
            return
        family = GaugeMetricFamily(figure.name, figure.text, labels=["gpu"])
        family.add_metric([self._gpu], value)
        yield family


def _name_and_uuid(device: str) -> tuple[str, str]:
    """CUDA numbers the devices it may see, NVML all of them; only the UUID is the same."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    return properties.name, str(properties.uuid)


def _find_handle(uuid: str) -> Any:
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        # a part of a GPU (MIG)
        return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def _index(handle: Any) -> str | None:
    """The GPU's number on this machine: processes that see one GPU each all call theirs 0."""
    try:
        return str(pynvml.nvmlDeviceGetIndex(handle))
    except pynvml.NVMLError:
        # a part of a GPU has none
        return None
