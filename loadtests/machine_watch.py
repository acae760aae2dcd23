"""How busy a machine is while something runs: the processor's cores and the GPUs."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import psutil
import pynvml

from benchmarks.report import Row
from service.processes.gpus import driver_handle, visible_gpus

# the driver's own figure covers a sixth of a second at least
_EVERY_S: Final = 0.1


class MachineWatch:
    """Measures from a block's begin to its end.

    All programs count, on the cores that this process may use and on the GPUs that it sees. A GPU
    is busy while any kernel runs, however little of the chip it fills.
    """

    def __init__(self) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._gpus: dict[str, Any] = {}
        with suppress(pynvml.NVMLError):
            self._gpus = {name: driver_handle(name) for name in visible_gpus()}
        self._shares: dict[str, list[float]] = {name: [] for name in self._gpus}
        self._ended = threading.Event()
        self._sampling = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._since, self._busy_s = time.monotonic(), _busy_s(self._cores)
        self._sampling.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._seconds = time.monotonic() - self._since
        self._busy_s = _busy_s(self._cores) - self._busy_s
        self._ended.set()
        self._sampling.join()

    def rows(self, case: str) -> Iterator[Row]:
        """What was found; after the block."""
        busy = self._busy_s / self._seconds
        yield Row(case, "cores busy", f"of {len(self._cores)} cores", round(busy, 2))
        for name, shares in self._shares.items():
            if shares:
                mean = sum(shares) / len(shares)
                yield Row(case, f"gpu {name} busy", "share of the time", round(mean, 3))

    def _sample(self) -> None:
        while not self._ended.wait(_EVERY_S):
            for name, handle in self._gpus.items():
                with suppress(pynvml.NVMLError):  # not every GPU has this figure
                    share = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
                    self._shares[name].append(share)


def _busy_s(cores: Sequence[int]) -> float:
    """Seconds since the machine's start in which these cores worked."""
    times = psutil.cpu_times(percpu=True)
    used = ("user", "nice", "system", "irq", "softirq")
    return sum(float(getattr(times[core], name)) for core in cores for name in used)
