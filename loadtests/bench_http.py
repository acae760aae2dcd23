"""The service over HTTP: capacity, latency below it, distance to the bare engine and to peers.

python -m loadtests.bench_http --out loadtests/results/http-h100.json --tasks classify
python -m loadtests.bench_http --out loadtests/results/http-cpu.json --quick

Per task, in the order of importance, each written at once: what the cores decode; the bare engine;
closed loops of several sizes, whose best is the capacity; one client; open loops at 25 to 100 % of
the capacity; 16 pictures in a request; then the peers with the same model, pictures and generator.
`--quick` serves the small demo models, for a CPU. Server, generator and peers share one machine.
SIGTERM, as `timeout` sends it, stops the servers and leaves what was measured.

Random weights (without `--quick`): detection asks for threshold 0, which makes 100 objects with
masks of every picture.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.deadline import Deadline
from benchmarks.report import GrowingReport, Row
from loadtests import bare_process
from loadtests.bench_decode import decoding_rows
from loadtests.generator.payloads import Payload
from loadtests.generator.plan import LoadPlan
from loadtests.generator.recorder import LoadResult
from loadtests.generator.run import warm_up
from loadtests.http_levels import (
    measure_level,
    measure_own_level,
    one_client,
    overhead_rows,
)
from loadtests.long_run import Steps, exit_on_sigterm
from loadtests.own_server import ServerProcess, smserve_process
from loadtests.peers.start import PEERS, peer_payloads, peer_process
from loadtests.workloads import Workload, demo_size, published_size
from model.config import TaskName

SHARES: Final = (0.25, 0.5, 0.75, 1.0)
FILES: Final = 16
# clients, besides as many as the largest closed loop has: batches of few and of many images
_WARM_UP: Final = (1, 8, 64)
_WARM_UP_S: Final = 0.5
_DECODED: Final = 16
_DECODING_S: Final = 1.0
_LATE: Final = "not measured: the time limit was reached"

Measure = Callable[[str, LoadPlan], LoadResult]


class TimeLimitError(RuntimeError):
    """What remains is not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        connections: of the closed loops, the most telling ones first.
        level_s: of each level, without its warm-up.
        batches: of the bare engine.
        different: pictures; large ones take long to make.
        processes: of the generator.
    """

    connections: tuple[int, ...]
    level_s: float
    batches: Mapping[TaskName, int]
    different: Mapping[TaskName, int]
    processes: int


FULL: Final = Scale(
    connections=(64, 128, 256, 512, 16),
    level_s=4.0,
    batches={TaskName.CLASSIFY: 128, TaskName.DETECT: 16, TaskName.SEGMENT: 64},
    different={TaskName.CLASSIFY: 256, TaskName.DETECT: 32, TaskName.SEGMENT: 128},
    processes=3,
)
QUICK: Final = Scale(
    connections=(4, 16),
    level_s=2.0,
    batches={TaskName.CLASSIFY: 4, TaskName.DETECT: 4, TaskName.SEGMENT: 4},
    different=dict.fromkeys(TaskName, 16),
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
        engines: str,
        skipped: frozenset[str] = frozenset(),
    ) -> None:
        self._skipped = skipped
        self._report, self._scale, self._deadline = report, scale, deadline
        self._processes = {"frontends": frontends}
        if engines != "auto":
            self._processes["processes__engines"] = engines
        self._plan = LoadPlan(
            urls=("http://127.0.0.1",),
            duration_s=scale.level_s + 1,
            warm_up_s=1.0,
            connections=max(scale.connections),
            processes=scale.processes,
        )
        self.step = Steps()

    def run(self, workload: Workload, peers: Sequence[str]) -> None:
        """The machine, the bare engine, ours, the peers; a part that fails is reported as such."""
        bare: dict[str, float] = {}
        if "bare" not in self._skipped:
            self._attempt(f"{workload.label}-decoding", partial(self._decoding, workload))
            self._attempt(f"{workload.label}-bare", partial(self._bare, workload, bare))
        ours: dict[str, float] = {}
        self._attempt(workload.label, partial(self._ours, workload, bare, ours))
        for peer in peers:
            theirs: dict[str, float] = {}
            case = f"{peer}-{workload.label}"
            self._attempt(case, partial(self._peer, workload, peer, theirs))
            self._compare(workload, peer, ours, theirs)

    def _attempt(self, case: str, measure: Callable[[], None]) -> None:
        """A part; what it found before it failed stays."""
        if self._deadline.passed:
            self._report.fail(case, _LATE)
            return
        try:
            measure()
        except SystemExit:
            self.step(f"{case}: ended early")
            self._report.fail(case, "ended early, by a signal")
            raise
        except Exception as exc:  # noqa: BLE001 - the other parts must still run
            self.step(f"{case}: failed")
            self._report.fail(case, exc)

    def _decoding(self, workload: Workload) -> None:
        """What the cores alone could do: of machines of one kind, one had twice the other's."""
        case = f"{workload.label}-decoding"
        self.step(case)
        self._report.add(decoding_rows(case, workload.pictures[:_DECODED], _DECODING_S))

    def _bare(self, workload: Workload, figures: dict[str, float]) -> None:
        batch = self._scale.batches[workload.task]
        case = f"{workload.label}-bare-b{batch}"
        self.step(case)
        figures |= bare_process.measure(workload, batch, self._scale.level_s)
        self._report.add([Row(case, "throughput", "images/s", round(figures["images_per_s"], 2))])

    def _ours(self, workload: Workload, bare: dict[str, float], figures: dict[str, float]) -> None:
        settings = {
            "models_dir": str(workload.model_file.parent),
            "demo_models": "false",
            **self._processes,
        }
        label = workload.label
        self.step(f"{label}: starting our server")
        with smserve_process(is_inherited=True, start_s=400, **settings) as server:
            payloads = workload.payloads()
            measure = partial(self._level, server, payloads, workload.task)
            self._warm_up(server, payloads)
            figures["capacity"] = self._closed_loops(label, measure)
            self._beside_bare(label, figures["capacity"], bare)
            result = measure(f"{label}-c1", one_client(self._plan))
            figures["p50"] = result.accepted.percentile(50)
            self._report.add(overhead_rows(f"{label}-c1", result.answers))
            if "open" not in self._skipped:
                self._open_loops(label, measure, figures["capacity"])
            if "multi" not in self._skipped:
                several = workload.payloads(files=FILES)
                rate = self._multi(label, partial(self._level, server, several, None))
                self._beside_bare(f"{label}-{FILES}-files", rate, bare)

    def _peer(self, workload: Workload, peer: str, figures: dict[str, float]) -> None:
        label = f"{peer}-{workload.label}"
        payloads = peer_payloads(peer, workload)
        self.step(f"{label}: starting")
        with peer_process(peer, workload, self._scale.batches[workload.task]) as server:
            measure = partial(self._level, server, payloads, None)
            self._warm_up(server, payloads)
            figures["capacity"] = self._closed_loops(label, measure)
            alone = measure(f"{label}-c1", one_client(self._plan))
            figures["p50"] = alone.accepted.percentile(50)

    def _warm_up(self, server: ServerProcess, payloads: Sequence[Payload]) -> None:
        """Ever more clients, so that small and large batches are met before the first figure."""
        self.step(f"server ready after {server.start_up_s:.1f} s")
        most = max(self._scale.connections)
        for connections in sorted({most, *(one for one in _WARM_UP if one < most)}):
            plan = LoadPlan(urls=(server.url,), duration_s=_WARM_UP_S, connections=connections)
            warm_up(plan, payloads)
        self.step("warm")

    def _level(
        self,
        server: ServerProcess,
        payloads: Sequence[Payload],
        task: TaskName | None,
        case: str,
        plan: LoadPlan,
    ) -> LoadResult:
        """One level; of a task of ours, with its stages.

        Raises:
            TimeLimitError: the run's time is over.
        """
        if self._deadline.passed:
            raise TimeLimitError(f"{case} and what follows: {_LATE}")
        self.step(case)
        if task is None:
            result, rows = measure_level(case, server.url, payloads, plan, pid=server.pid)
        else:
            result, rows = measure_own_level(
                case, server.url, payloads, plan, pid=server.pid, task=task
            )
        self._report.add(rows)
        return result

    def _closed_loops(self, label: str, measure: Measure) -> float:
        """The best rate; of the loops that the time was enough for."""
        best = 0.0
        for connections in self._scale.connections:
            case = f"{label}-c{connections}"
            if best and self._deadline.passed:
                self._report.fail(case, _LATE)
                break
            processes = min(connections, self._scale.processes)
            plan = replace(self._plan, connections=connections, processes=processes)
            best = max(best, measure(case, plan).images_per_s)
        self._report.add([Row(label, "capacity", "images/s", round(best, 2))])
        return best

    def _beside_bare(self, case: str, rate: float, bare: dict[str, float]) -> None:
        if bare:
            ratio = round(rate / bare["images_per_s"], 4)
            self._report.add([Row(case, "throughput / bare engine", "ratio", ratio)])

    def _open_loops(self, label: str, measure: Measure, capacity: float) -> None:
        for share in SHARES:
            plan = replace(self._plan, rate=share * capacity, connections=2048)
            measure(f"{label}-open-{share:.0%}", plan)

    def _multi(self, label: str, measure: Measure) -> float:
        rates = []
        for connections in dict.fromkeys(max(1, one // FILES) for one in self._scale.connections):
            plan = replace(self._plan, connections=connections, processes=1)
            rates.append(measure(f"{label}-{FILES}-files-c{connections}", plan).images_per_s)
        return max(rates)

    def _compare(
        self, workload: Workload, peer: str, ours: dict[str, float], theirs: dict[str, float]
    ) -> None:
        """Above 1 we are better in both."""
        case = f"{workload.label}-against-{peer}"
        ratios = {}
        if ours.get("capacity") and theirs.get("capacity"):
            ratios["throughput, ours / theirs"] = ours["capacity"] / theirs["capacity"]
        if ours.get("p50") and theirs.get("p50"):
            name = "latency p50 of one client, theirs / ours"
            ratios[name] = theirs["p50"] / ours["p50"]
        self._report.add(Row(case, name, "ratio", round(v, 3)) for name, v in ratios.items())


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
    parser.add_argument("--engines", default="auto", help="of our service")
    parser.add_argument("--level-s", type=float, help="of each level")
    parser.add_argument("--connections", help="of the closed loops, with commas between")
    parser.add_argument("--different", type=int, help="pictures; fewer are made sooner")
    parser.add_argument("--skip", default="", help="of bare, open, multi; with commas between")
    parser.add_argument("--limit-s", type=float, default=540.0, help="of the whole run")
    return parser.parse_args()


def scale_of(args: argparse.Namespace) -> Scale:
    """The usual one, with what was asked for."""
    scale = QUICK if args.quick else FULL
    if args.level_s:
        scale = replace(scale, level_s=args.level_s)
    if args.connections:
        connections = tuple(int(one) for one in args.connections.split(","))
        scale = replace(scale, connections=connections)
    if args.different:
        scale = replace(scale, different=dict.fromkeys(TaskName, args.different))
    return scale


def main() -> int:
    """All tasks that were asked for."""
    args = parse_arguments()
    exit_on_sigterm()
    scale = scale_of(args)
    report = GrowingReport(args.out, "http", frontends=args.frontends, engines=args.engines)
    bench = HttpBench(
        report,
        scale,
        Deadline(args.limit_s),
        frontends=args.frontends,
        engines=args.engines,
        skipped=frozenset(args.skip.split(",")),
    )
    peers = [peer for peer in args.peers.split(",") if peer]
    for name in args.tasks.split(","):
        task = TaskName(name)
        bench.step(f"{task}: model file and pictures")
        with TemporaryDirectory(prefix="smserve-bench-") as folder:
            different = scale.different[task]
            if args.quick:
                workload = demo_size(task, folder=Path(folder), different=different)
            else:
                workload = published_size(task, args.variant, Path(folder), different=different)
            bench.run(workload, peers)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
