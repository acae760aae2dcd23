"""Detection over HTTP with one GPU and with all of them, in the same run.

python -m loadtests.bench_gpus --out loadtests/results/gpus-h100.json

Random weights, as in `loadtests.bench_http`; the same front ends, two engine processes on each GPU.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.report import GrowingReport, Row
from loadtests.generator.plan import LoadPlan
from loadtests.generator.run import warm_up
from loadtests.http_levels import measure_own_level
from loadtests.long_run import Steps, exit_on_sigterm
from loadtests.own_server import ServerProcess, smserve_process
from loadtests.workloads import Workload, published_size
from model.config import TaskName
from service.processes.gpus import VISIBLE, visible_gpus

CONNECTIONS_PER_GPU: Final = (32, 64)
_LEVEL_S: Final = 5.0


class GpusBench:
    """Measures the same workload on different GPUs."""

    def __init__(self, workload: Workload, report: GrowingReport, step: Steps) -> None:
        self._workload, self._report, self._step = workload, report, step
        self._payloads = workload.payloads()

    def capacity(self, gpus: tuple[str, ...], frontends: str) -> float:
        """Best images per second of the closed loops."""
        case = f"{self._workload.label}-{len(gpus)}-gpus"
        settings = {
            "models_dir": str(self._workload.model_file.parent),
            "demo_models": "false",
            "frontends": frontends,
        }
        self._step(f"{case}: starting the server")
        server = smserve_process(start_s=200, variables={VISIBLE: ",".join(gpus)}, **settings)
        with server:
            self._step(f"server ready after {server.start_up_s:.1f} s")
            connections = [len(gpus) * own for own in CONNECTIONS_PER_GPU]
            best = max(self._level(f"{case}-c{one}", server, one) for one in connections)
        self._report.add([Row(case, "capacity", "images/s", round(best, 2))])
        return best

    def _level(self, case: str, server: ServerProcess, connections: int) -> float:
        """Images per second of one closed loop."""
        plan = LoadPlan(
            urls=(server.url,),
            duration_s=_LEVEL_S + 1,
            warm_up_s=1.0,
            connections=connections,
            processes=3,
        )
        # graphs of every batch size come with the first batches
        warm_up(replace(plan, duration_s=2.0, warm_up_s=0.0, processes=1), self._payloads)
        self._step(case)
        result, rows = measure_own_level(
            case, server.url, self._payloads, plan, pid=server.pid, task=self._workload.task
        )
        self._report.add(rows)
        return result.images_per_s


def main() -> int:
    """One GPU, then all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frontends", default="auto")
    args = parser.parse_args()
    exit_on_sigterm()
    step = Steps()
    gpus = visible_gpus()
    if len(gpus) < 2:
        print(f"this machine has {len(gpus)} GPUs: nothing to compare", file=sys.stderr)
        return 1
    report = GrowingReport(args.out, "gpus", frontends=args.frontends)
    step("model file and pictures")
    with TemporaryDirectory(prefix="smserve-bench-") as folder:
        workload = published_size(TaskName.DETECT, "tiny", Path(folder), different=32)
        bench = GpusBench(workload, report, step)
        one, all_of_them = (bench.capacity(own, args.frontends) for own in (gpus[:1], gpus))
    ratio = Row(workload.label, f"{len(gpus)} GPUs / one", "ratio", round(all_of_them / one, 3))
    report.add([ratio])
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
