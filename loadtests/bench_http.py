"""The service over HTTP: capacity, latency below it, distance to the bare engine and to peers.

python -m loadtests.bench_http --out loadtests/results/http-h100.json --tasks classify
python -m loadtests.bench_http --out loadtests/results/http-cpu.json --quick

Per task: the bare engine; one client; closed loops of several sizes, whose best is the capacity;
open loops at 25 to 100 % of it; 16 pictures in a request; then the peers with the same model,
pictures and generator. `--quick` serves the small demo models, for a CPU. Server, generator and
peers share one machine.

Random weights (without `--quick`): detection asks for threshold 0, which makes 100 objects with
masks of every picture.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.deadline import Deadline
from benchmarks.report import GrowingReport, Row
from loadtests import bare_process
from loadtests.generator.plan import LoadPlan
from loadtests.generator.recorder import LoadResult
from loadtests.generator.run import run_load
from loadtests.http_levels import (
    measure_level,
    measure_own_level,
    one_client,
    overhead_rows,
)
from loadtests.own_server import ServerProcess, smserve_process
from loadtests.peers.start import PEERS, peer_payloads, peer_process
from loadtests.workloads import Workload, demo_size, published_size
from model.config import TaskName

SHARES: Final = (0.25, 0.5, 0.75, 1.0)
FILES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        connections: of the closed loops.
        level_s: of each level, without its warm-up.
        batches: of the bare engine.
        different: pictures.
        processes: of the generator.
    """

    connections: tuple[int, ...]
    level_s: float
    batches: dict[TaskName, int]
    different: int
    processes: int


FULL: Final = Scale(
    connections=(16, 64, 128, 256, 512),
    level_s=4.0,
    batches={TaskName.CLASSIFY: 128, TaskName.DETECT: 16, TaskName.SEGMENT: 64},
    different=256,
    processes=3,
)
QUICK: Final = Scale(
    connections=(4, 16),
    level_s=2.0,
    batches={TaskName.CLASSIFY: 4, TaskName.DETECT: 4, TaskName.SEGMENT: 4},
    different=16,
    processes=1,
)


class HttpBench:
    """Measures one task after another into one report."""

    def __init__(
        self,
        report: GrowingReport,
        scale: Scale,
        deadline: Deadline,
        *,
        frontends: str,
        skipped: frozenset[str] = frozenset(),
    ) -> None:
        self._skipped = skipped
        self._report, self._scale, self._deadline = report, scale, deadline
        self._frontends = frontends
        self._plan = LoadPlan(
            urls=("http://127.0.0.1",),
            duration_s=scale.level_s + 1,
            warm_up_s=1.0,
            connections=max(scale.connections),
            processes=scale.processes,
        )

    def run(self, workload: Workload, peers: Sequence[str]) -> None:
        """The bare engine, ours, and the peers; a part that fails is reported as such."""
        bare: dict[str, float] = {}
        if "bare" not in self._skipped:
            bare = self._attempt(f"{workload.label}-bare", partial(self._bare, workload))
        ours = self._attempt(workload.label, partial(self._ours, workload, bare))
        for peer in peers:
            case = f"{peer}-{workload.label}"
            theirs = self._attempt(case, partial(self._peer, workload, peer))
            self._compare(workload, peer, ours, theirs)

    def _attempt(self, case: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Its figures by name; none when it failed or came too late."""
        if self._deadline.passed:
            self._report.fail(case, "not measured: the time limit was reached")
            return {}
        try:
            return measure()
        except Exception as exc:  # noqa: BLE001 - the other parts must still run
            self._report.fail(case, exc)
            return {}

    def _bare(self, workload: Workload) -> dict[str, float]:
        batch = self._scale.batches[workload.task]
        found = bare_process.measure(workload, batch, self._scale.level_s)
        case = f"{workload.label}-bare-b{batch}"
        self._report.add([Row(case, "throughput", "images/s", round(found["images_per_s"], 2))])
        return found

    def _ours(self, workload: Workload, bare: dict[str, float]) -> dict[str, float]:
        settings = {
            "models_dir": str(workload.model_file.parent),
            "demo_models": "false",
            "frontends": self._frontends,
        }
        with smserve_process(is_inherited=True, start_s=400, **settings) as server:
            self._warm_up(server, workload, f"/{workload.task}")
            figures = self._one_client(server, workload)
            figures["capacity"] = self._closed_loops(server, workload)
            if "open" not in self._skipped:
                self._open_loops(server, workload, figures["capacity"])
            if "multi" not in self._skipped:
                figures["multi"] = self._multi(server, workload)
        for name in ("capacity", "multi"):
            if bare and name in figures:
                row = Row(
                    workload.label if name == "capacity" else f"{workload.label}-{FILES}-files",
                    "throughput / bare engine",
                    "ratio",
                    round(figures[name] / bare["images_per_s"], 4),
                )
                self._report.add([row])
        return figures

    def _warm_up(self, server: ServerProcess, workload: Workload, path: str) -> None:
        """Ever more clients, so that each batch size is met before anything is measured."""
        connections = 1
        while connections <= max(self._scale.connections):
            plan = replace(
                self._plan,
                urls=(server.url,),
                duration_s=1.0,
                warm_up_s=0.0,
                connections=connections,
                processes=1,
            )
            run_load(plan, workload.payloads(path))
            connections *= 2

    def _one_client(self, server: ServerProcess, workload: Workload) -> dict[str, float]:
        case = f"{workload.label}-c1"
        result, rows = measure_own_level(
            case,
            server.url,
            workload.payloads(),
            one_client(self._plan),
            pid=server.pid,
            task=workload.task,
        )
        self._report.add([*rows, *overhead_rows(case, result.answers)])
        return {"p50": result.accepted.percentile(50)}

    def _closed_loops(self, server: ServerProcess, workload: Workload) -> float:
        rates = []
        for connections in self._scale.connections:
            result = self._own_level(
                f"{workload.label}-c{connections}",
                server,
                workload,
                replace(self._plan, connections=connections),
            )
            rates.append(result.images_per_s)
        capacity = max(rates)
        self._report.add([Row(workload.label, "capacity", "images/s", round(capacity, 2))])
        return capacity

    def _open_loops(self, server: ServerProcess, workload: Workload, capacity: float) -> None:
        for share in SHARES:
            case = f"{workload.label}-open-{share:.0%}"
            plan = replace(self._plan, rate=share * capacity, connections=2048)
            self._own_level(case, server, workload, plan)

    def _own_level(
        self, case: str, server: ServerProcess, workload: Workload, plan: LoadPlan
    ) -> LoadResult:
        result, rows = measure_own_level(
            case, server.url, workload.payloads(), plan, pid=server.pid, task=workload.task
        )
        self._report.add(rows)
        return result

    def _multi(self, server: ServerProcess, workload: Workload) -> float:
        payloads = workload.payloads(files=FILES)
        rates = [0.0]
        for connections in sorted({max(1, one // FILES) for one in self._scale.connections}):
            case = f"{workload.label}-{FILES}-files-c{connections}"
            plan = replace(self._plan, connections=connections, processes=1)
            result, rows = measure_level(case, server.url, payloads, plan, pid=server.pid)
            self._report.add(rows)
            rates.append(result.images_per_s)
        return max(rates)

    def _peer(self, workload: Workload, peer: str) -> dict[str, float]:
        payloads = peer_payloads(peer, workload)
        with peer_process(peer, workload, self._scale.batches[workload.task]) as server:
            for connections in (1, max(self._scale.connections)):
                plan = replace(self._plan, urls=(server.url,), connections=connections, processes=1)
                run_load(replace(plan, duration_s=2.0, warm_up_s=0.0), payloads)
            case = f"{peer}-{workload.label}"
            alone, rows = measure_level(
                f"{case}-c1", server.url, payloads, one_client(self._plan), pid=server.pid
            )
            self._report.add(rows)
            rates = []
            for connections in self._scale.connections:
                result, rows = measure_level(
                    f"{case}-c{connections}",
                    server.url,
                    payloads,
                    replace(self._plan, connections=connections),
                    pid=server.pid,
                )
                self._report.add(rows)
                rates.append(result.images_per_s)
        return {"p50": alone.accepted.percentile(50), "capacity": max(rates)}

    def _compare(
        self, workload: Workload, peer: str, ours: dict[str, float], theirs: dict[str, float]
    ) -> None:
        """Above 1 we are better in both."""
        if not ours or not theirs or not theirs["capacity"] or not ours["p50"]:
            return
        case = f"{workload.label}-against-{peer}"
        ratios = {
            "throughput, ours / theirs": ours["capacity"] / theirs["capacity"],
            "latency p50 of one client, theirs / ours": theirs["p50"] / ours["p50"],
        }
        self._report.add([Row(case, name, "ratio", round(v, 3)) for name, v in ratios.items()])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default=",".join(TaskName))
    parser.add_argument("--variant", default="tiny")
    parser.add_argument("--peers", default=",".join(PEERS), help="empty: none")
    parser.add_argument("--quick", action="store_true", help="demo models, short levels")
    parser.add_argument("--frontends", default="auto", help="of our service")
    parser.add_argument("--level-s", type=float, help="of each level")
    parser.add_argument("--connections", help="of the closed loops, with commas between")
    parser.add_argument("--skip", default="", help="of bare, open, multi; with commas between")
    parser.add_argument("--limit-s", type=float, default=540.0, help="of the whole run")
    return parser.parse_args()


def main() -> int:
    """All tasks that were asked for."""
    args = parse_arguments()
    scale = QUICK if args.quick else FULL
    if args.level_s:
        scale = replace(scale, level_s=args.level_s)
    if args.connections:
        connections = tuple(int(one) for one in args.connections.split(","))
        scale = replace(scale, connections=connections)
    report = GrowingReport(args.out, "http", frontends=args.frontends)
    bench = HttpBench(
        report,
        scale,
        Deadline(args.limit_s),
        frontends=args.frontends,
        skipped=frozenset(args.skip.split(",")),
    )
    peers = [peer for peer in args.peers.split(",") if peer]
    for name in args.tasks.split(","):
        task = TaskName(name)
        with TemporaryDirectory(prefix="smserve-bench-") as folder:
            if args.quick:
                workload = demo_size(task, folder=Path(folder), different=scale.different)
            else:
                workload = published_size(
                    task, args.variant, Path(folder), different=scale.different
                )
            bench.run(workload, peers)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
