"""Timing of device work: events, graphs, memory, and the ceilings of the device.

On a CUDA device times are those of events on the stream; elsewhere those of the host's clock, so
that the programs around this module can be tried out without a GPU.
"""

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import Row

# larger than the second-level cache of any GPU so far: writing it evicts everything else
FLUSH_BYTES: Final = 512 * 2**20
MIN_REPEATS: Final = 5
MAX_REPEATS: Final = 2000
# events in flight between two synchronisations
CHUNK: Final = 50
WARM_UP_CALLS: Final = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of single calls.

    Attributes:
        milliseconds: one entry per call.
        cold_l2: the second-level cache was overwritten before every call.
    """

    milliseconds: tuple[float, ...]
    cold_l2: bool = False

    def percentile(self, q: float) -> float:
        """Milliseconds that `q` % of the calls did not exceed."""
        return float(np.percentile(self.milliseconds, q))

    @property
    def median(self) -> float:
        return self.percentile(50)

    def rows(
        self, case: str, batch: int = 1, how: str = "", percentiles: Iterable[int] = (10, 90)
    ) -> list[Row]:
        """Throughput at the median, median latency and further percentiles of the latency.

        Args:
            how: what ran the case, when one file holds several ways; starts the metric's name.
        """
        prefix = f"{how}: " if how else ""
        latency = f"{prefix}latency{', cold L2' if self.cold_l2 else ''}"
        rows = [Row(case, latency, "ms", self.median)]
        if not self.cold_l2:
            rows.insert(0, Row(case, f"{prefix}throughput", "images/s", 1e3 * batch / self.median))
        rows += [Row(case, f"{latency} p{q}", "ms", self.percentile(q)) for q in percentiles]
        return rows


def on_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def synchronise(device: str) -> None:
    """Wait for all work of the device."""
    if on_cuda(device):
        torch.cuda.synchronize(device)


def time_calls(
    function: Callable[[], Any], device: str, *, budget_s: float = 1.0, cold_l2: bool = False
) -> Timing:
    """Time as many calls as the budget allows, at least five, after a warm-up.

    Without `cold_l2` the calls run back to back and a time reaches from the end of one call to the
    end of the next, so that gaps between them count. Inputs and weights that fit in the cache then
    stay there, as they do in a server under load.
    """
    for _ in range(WARM_UP_CALLS):
        function()
    flush = _flusher(device) if cold_l2 else None
    one_call = _wall_ms(function, device)
    repeats = int(np.clip(1e3 * budget_s / max(one_call, 1e-3), MIN_REPEATS, MAX_REPEATS))
    if not on_cuda(device):
        return Timing(tuple(_wall_ms(function, device) for _ in range(repeats)), cold_l2)
    times: list[float] = []
    while len(times) < repeats:
        times += _event_times(function, min(CHUNK, repeats - len(times)), flush)
    return Timing(tuple(times), cold_l2)


def time_wall(
    function: Callable[[], Any], device: str, *, budget_s: float = 1.0, min_repeats: int = 5
) -> Timing:
    """Time calls that end on the host by the host's clock, one after the other."""
    for _ in range(WARM_UP_CALLS):
        function()
    end = time.perf_counter() + budget_s
    times: list[float] = []
    while len(times) < min_repeats or (time.perf_counter() < end and len(times) < MAX_REPEATS):
        times.append(_wall_ms(function, device))
    return Timing(tuple(times))


def _wall_ms(function: Callable[[], Any], device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return 1e3 * (time.perf_counter() - start)


def _event_times(
    function: Callable[[], Any], calls: int, flush: Callable[[], Any] | None
) -> list[float]:
    """Milliseconds of each call; the host runs ahead of the device within the chunk."""
    function()  # not timed: the device would wait for the host to begin
    previous = _recorded_event()
    pairs = []
    for _ in range(calls):
        if flush is not None:
            flush()
            previous = _recorded_event()
        function()
        done = _recorded_event()
        pairs.append((previous, done))
        previous = done
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def _recorded_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _flusher(device: str) -> Callable[[], Any]:
    if not on_cuda(device):
        raise ValueError(f"a cold second-level cache needs a CUDA device, got {device!r}")
    return torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device).zero_


class CapturedGraph:
    """A callable recorded as a CUDA graph; calling this replays it, and keeps its memory alive.

    The callable must read and write the same memory on every call and never wait for the device.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        self._function = function  # and with it the inputs whose addresses are in the graph
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.outputs = function()

    def __call__(self) -> None:
        self._graph.replay()


class PeakMemory:
    """Memory of one case, on a device that may hold other things as well.

    Counts tensors that are alive at the same time: the case's own from before, given as
    `resident`, and the most that the body added.
    """

    def __init__(self, device: str, resident: int = 0) -> None:
        self._device, self._resident, self._before = device, resident, 0
        self._bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        if on_cuda(self._device):
            synchronise(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = allocated(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        if on_cuda(self._device):
            added = torch.cuda.max_memory_allocated(self._device) - self._before
            self._bytes = self._resident + added

    def rows(self, case: str, how: str = "") -> list[Row]:
        """One row; none off CUDA, where nothing is counted."""
        if self._bytes is None:
            return []
        return [
            Row(case, f"{how}: peak memory" if how else "peak memory", "MiB", self._bytes / 2**20)
        ]


def allocated(device: str) -> int:
    """Bytes of all tensors on a CUDA device, 0 elsewhere."""
    return torch.cuda.memory_allocated(device) if on_cuda(device) else 0


def release(device: str) -> None:
    """Give memory that nothing refers to back to the device."""
    gc.collect()
    if on_cuda(device):
        torch.cuda.empty_cache()


def copy_bandwidth(device: str, *, size: int = 2**31, budget_s: float = 0.5) -> float:
    """GB/s of a copy on the device, bytes read plus bytes written."""
    source = _noise((size // 2,), torch.float16, device)
    target = torch.empty_like(source)
    timing = time_calls(lambda: target.copy_(source), device, budget_s=budget_s)
    return 2 * size / timing.median / 1e6


def matmul_rate(
    device: str, dtype: torch.dtype, *, size: int = 8192, budget_s: float = 0.5
) -> float:
    """TFLOP/s of a square matrix product of random numbers; zeros would run faster."""
    left, right = (_noise((size, size), dtype, device) for _ in range(2))
    out = torch.empty_like(left)
    timing = time_calls(lambda: torch.mm(left, right, out=out), device, budget_s=budget_s)
    return 2 * size**3 / timing.median / 1e9


def device_ceilings(device: str) -> list[Row]:
    """What the device reaches on a copy and on matrix products, as rows of the case `device`."""
    rows = [Row("device", "copy, read + written", "GB/s", copy_bandwidth(device))]
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        rows.append(Row("device", f"{name} matrix product", "TFLOP/s", matmul_rate(device, dtype)))
    release(device)
    return rows


def _noise(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, dtype=dtype, device=device, generator=generator)
