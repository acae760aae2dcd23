"""Everything over HTTP that is measured on GPUs, in the order of importance, in scarce minutes.

python -m loadtests.all_gpu [--limit-s 540] [--out loadtests/results] [--only classify,locust]

Each GPU is a lane with its share of the processor's cores, and takes one program after another;
what needs several GPUs comes last, alone. Lanes share memory and caches: on a machine of two GPUs
the bare engine lost a third that way, so `--lanes 1` gives the better figures, and more lanes give
more of them. Compile Triton's kernels first (`python -m benchmarks.precompile`), or the first
servers take minutes to start.
"""

import argparse
import os
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Final

from benchmarks.report import ROOT
from benchmarks.steps import Step
from loadtests.long_run import Steps, exit_on_sigterm
from service.processes.gpus import VISIBLE, visible_gpus


def _http(file: str, arguments: str, limit_s: float) -> Step:
    """One run of the benchmark over HTTP, which ends by itself before it is ended."""
    own = shlex.split(f"{arguments} --level-s 3 --limit-s {limit_s - 25:.0f}")
    return Step("loadtests.bench_http", file, tuple(own), limit_s, least_s=limit_s / 2)


def _other(file: str, module: str, arguments: str, limit_s: float, gpus: int = 1) -> Step:
    """A program that leaves nothing when it is ended early."""
    own = tuple(shlex.split(arguments))
    return Step(f"loadtests.{module}", file, own, limit_s, least_s=0.9 * limit_s, gpus=gpus)


STEPS: Final[Mapping[str, Step]] = {
    "classify": _http(
        "http-h100.json",
        "--tasks classify --peers litserve-4-workers,litserve,plain --connections 128,256,64",
        limit_s=420,
    ),
    "detect-segment": _http(
        "http-h100-detect-segment.json",
        "--tasks detect,segment --peers '' --skip multi --connections 64,128,32",
        limit_s=260,
    ),
    "locust": _other(
        "locust-h100.json", "locust_levels", "--users 64 --seconds 25 --processes 4", limit_s=120
    ),
    "one-engine": _http(
        "one-engine-h100.json",
        "--engines 1 --tasks detect,segment,classify --peers '' --skip bare,open,multi "
        "--connections 64,128",
        limit_s=150,
    ),
    "decode": _other("decode-h100.json", "bench_decode", "--seconds 1.5", limit_s=45),
    "gpus": _other("gpus-h100.json", "bench_gpus", "", limit_s=170, gpus=2),
    "soak": _other(
        "gate-soak-h100.json",
        "gates.soak",
        "--backend auto --frontends 12 --minutes 10",
        limit_s=720,
    ),
}


@dataclass(frozen=True, slots=True)
class Lane:
    """Where a program runs.

    Attributes:
        gpus: by the names that CUDA_VISIBLE_DEVICES takes.
        cores: numbers of the processor's cores.
    """

    gpus: tuple[str, ...]
    cores: tuple[int, ...]

    @property
    def command(self) -> tuple[str, ...]:
        """That a program is the argument of."""
        return ("taskset", "-c", ",".join(map(str, self.cores)))

    @property
    def variables(self) -> dict[str, str]:
        """Of the environment."""
        return {VISIBLE: ",".join(self.gpus)}


def lanes_of(gpus: tuple[str, ...], cores: tuple[int, ...], count: int) -> tuple[Lane, ...]:
    """A GPU each, and an equal part of the cores, neighbours together."""
    share = len(cores) // count
    return tuple(
        Lane((gpu,), cores[number * share : (number + 1) * share])
        for number, gpu in enumerate(gpus[:count])
    )


class Run:
    """Steps on lanes, until all are done or the time is over."""

    def __init__(self, folder: Path, logs: Path, limit_s: float) -> None:
        self._folder, self._logs = folder, logs
        self._deadline = time.monotonic() + limit_s
        self._tell = Steps()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def all(self, steps: Mapping[str, Step], lanes: tuple[Lane, ...], whole: Lane) -> None:
        """Those of one GPU side by side, then the others one after another on `whole`."""
        waiting = deque(name for name, step in steps.items() if step.gpus == 1)

        def work(lane: Lane) -> None:
            while name := self._next(waiting):
                self._one(name, steps[name], lane)

        with ThreadPoolExecutor(len(lanes)) as pool:
            try:
                for done in [pool.submit(work, lane) for lane in lanes]:
                    done.result()
            except BaseException:  # a signal: the lanes would go on
                self._stop.set()
                raise
        for name, step in steps.items():
            if step.gpus > 1:
                self._one(name, step, whole)

    def _next(self, waiting: deque[str]) -> str | None:
        with self._lock:
            return waiting.popleft() if waiting and not self._stop.is_set() else None

    def _one(self, name: str, step: Step, lane: Lane) -> None:
        where = f"GPU {','.join(lane.gpus)}"
        if len(lane.gpus) < step.gpus:
            self._tell(f"{name}: not started: needs {step.gpus} GPUs")
            return
        self._tell(f"{name}: on {where}")
        left = self._deadline - time.monotonic()
        how = step.run(
            self._folder,
            left,
            before=lane.command,
            variables=lane.variables,
            log=self._logs / f"{name}.log",
            stop=self._stop,
        )
        self._tell(f"{name}: {how}")


def main() -> int:
    """All steps that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "loadtests/results")
    parser.add_argument("--logs", type=Path, default=Path(gettempdir()) / "smserve-all-gpu")
    parser.add_argument("--limit-s", type=float, default=540.0)
    parser.add_argument("--only", default=",".join(STEPS), help="of these, in this order")
    parser.add_argument("--lanes", type=int, help="default: one a GPU")
    args = parser.parse_args()
    exit_on_sigterm()
    gpus, cores = visible_gpus(), tuple(sorted(os.sched_getaffinity(0)))
    if not gpus:
        print("this machine shows no GPU", file=sys.stderr)
        return 1
    args.logs.mkdir(parents=True, exist_ok=True)
    lanes = lanes_of(gpus, cores, min(args.lanes or len(gpus), len(gpus)))
    steps = {name: STEPS[name] for name in args.only.split(",")}
    Run(args.out.resolve(), args.logs, args.limit_s).all(steps, lanes, Lane(gpus, cores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
