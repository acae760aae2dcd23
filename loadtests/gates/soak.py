"""Memory, open files and GPU memory stay flat under mixed work.

python -m loadtests.gates.soak --minutes 10 --out loadtests/results/gate-soak.json

All tasks, pictures of many sizes. After the first half, in which caches fill, the straight line
through the resident memory must be level, of each process and of all together, and nothing may
have grown by more than 100 MiB. With `SMSERVE_STUB__LEAK_BYTES` of the stub the gate must fail;
`--leak-bytes` sets it.
"""

import argparse
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np

from loadtests.gates.gate import GateOptions, GateReport, device_of, gate_main
from loadtests.generator.payloads import Payload, jpeg_pictures, raw_payloads
from loadtests.generator.plan import LoadPlan
from loadtests.generator.processes import ProcessSample, ProcessWatch
from loadtests.generator.run import run_load
from loadtests.long_run import exit_on_sigterm
from loadtests.own_server import ServerProcess
from loadtests.scrape import scrape

_TASKS: Final = ("classify", "detect", "segment")
_SIZES: Final = ((64, 48), (320, 240), (333, 512), (640, 480), (800, 200), (1024, 768))
_MIB: Final = 1024 * 1024
_GROWTH_MIB: Final = 100.0
# what the line may rise in the judged half; resident memory is taken in steps of some MiB
_RISE_MIB: Final = 16.0
_SPARE_FILES: Final = 8

Series = list[tuple[float, float]]


def run(options: GateOptions, *, leak_bytes: int = 0) -> GateReport:
    """As long as the options say, a few seconds in the short form."""
    report = GateReport("soak", options)
    seconds = 3.0 if options.is_short else 60 * options.minutes
    payloads = mixed_payloads()
    with options.service(stub__leak_bytes=str(leak_bytes), stub__batch_ms="5") as server:
        report.device = device_of(server)
        # every task and size once before anything counts
        run_load(_plan(server, seconds=min(4.0, seconds / 2)), payloads)
        with (
            ProcessWatch(server.pid, interval_s=max(0.1, seconds / 600)) as watch,
            GpuMemoryWatch(server, interval_s=max(1.0, seconds / 600)) as gpu,
        ):
            result = run_load(_plan(server, seconds=seconds), payloads)
    for title, series in series_by_title(watch.samples).items():
        judge_flat(report, title, series)
    files = [(moment, sum(one.fds for one in processes)) for moment, processes in watch.samples]
    if gpu.series:
        judge_flat(report, "GPU", gpu.series)
    # the last sample comes after the load, whose connections are gone by then
    report.at_most("files left open", files[-1][1] - files[0][1], _SPARE_FILES, "files")
    report.equal("without an answer", sum(result.errors.values()), 0, "requests")
    failed = sum(n for status, n in result.statuses.items() if status not in (200, 429))
    report.equal("failed", failed, 0, "requests")
    report.at_least("answered", result.statuses.get(200, 0), 1, "requests")
    return report


def _plan(server: ServerProcess, *, seconds: float) -> LoadPlan:
    return LoadPlan(urls=(server.url,), duration_s=seconds, connections=8, timeout_s=120)


def mixed_payloads() -> list[Payload]:
    """All tasks with all sizes, shuffled but always the same."""
    payloads = []
    for index, (width, height) in enumerate(_SIZES):
        size = max(2_000, width * height // 5)
        pictures = jpeg_pictures(width, height, number=2, target_bytes=size, seed=index)
        for task in _TASKS:
            payloads += raw_payloads(f"/{task}", pictures)
    order = np.random.default_rng(0).permutation(len(payloads))
    return [payloads[index] for index in order]


def series_by_title(samples: Sequence[tuple[float, Sequence[ProcessSample]]]) -> dict[str, Series]:
    """Resident MiB of all processes of a title, and of them what is not shared.

    The pictures' memory is shared, and is filled up to its limit little by little.
    """
    found: defaultdict[str, Series] = defaultdict(list)
    for moment, processes in samples:
        sums: Counter[str] = Counter()
        for one in processes:
            sums[one.title] += one.rss
            sums[f"{one.title}: not shared"] += one.own
            sums["all processes"] += one.rss
        for title, total in sums.items():
            found[title].append((moment, total / _MIB))
    return dict(sorted(found.items()))


def judge_flat(report: GateReport, title: str, series: Series) -> None:
    """Of (seconds, MiB): the growth since the first quarter, and the rise of the second half."""
    times, values = np.array(series, dtype=np.float64).T
    quarter, half = len(values) // 4, len(values) // 2
    growth = float(np.median(values[-max(1, quarter) :]) - np.median(values[: max(1, quarter)]))
    report.note(f"{title}: memory at the end", values[-1], "MiB")
    report.at_most(f"{title}: growth", growth, _GROWTH_MIB, "MiB")
    if len(values) - half < 3:
        return
    slope = float(np.polyfit(times[half:] - times[half], values[half:], 1)[0])
    report.note(f"{title}: slope", 60 * slope, "MiB/min")
    rise = slope * float(times[-1] - times[half])
    report.at_most(f"{title}: rise in the second half", rise, _RISE_MIB, "MiB")


class GpuMemoryWatch:
    """Reads the GPU memory from the server's metrics, in a thread; nothing without a GPU."""

    def __init__(self, server: ServerProcess, interval_s: float) -> None:
        self.series: Series = []
        self._url, self._interval_s = server.url, interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "GpuMemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                found = scrape(self._url)
            except OSError:
                continue
            if not found.has("smserve_gpu_memory_used_bytes"):
                return
            used = found.total("smserve_gpu_memory_used_bytes") / _MIB
            self.series.append((time.monotonic(), used))


def main() -> int:
    """The gate's command line, and the option of its negative control."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--leak-bytes", type=int, default=0, help="of each image: must fail")
    found, rest = own.parse_known_args()
    exit_on_sigterm()
    return gate_main(partial(run, leak_bytes=found.leak_bytes), __doc__ or "", rest)


if __name__ == "__main__":
    sys.exit(main())
