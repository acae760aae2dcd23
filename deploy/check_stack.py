"""Ask a running Prometheus for everything that dashboards and alerts ask for.

python -m deploy.check_stack --prometheus http://127.0.0.1:9090 --out deploy/results/stack.json

Run it while the service works. Exit status 1 when a target is down, or when a query finds no series
with a number in it. What needs a GPU is listed apart where there is none; with --gpu it must be
there, too.
"""

import argparse
import json
import math
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.report import Row, cpu_name, write_report
from model.config import TaskName
from service.gpu_metrics import FIGURES, INFO
from service.telemetry import Metrics

HERE: Final = Path(__file__).parent
DASHBOARDS: Final = HERE / "grafana" / "dashboards"
ALERTS: Final = HERE / "prometheus" / "alerts.yml"
# a machine without a GPU has none of these
GPU_METRICS: Final = frozenset({INFO[0], *(figure.name for figure in FIGURES)})
_GPU_RECORDED: Final = "smserve:gpu_memory:ratio"
# what Grafana puts in place of its variables, when all is selected
_VARIABLES: Final = {"$__rate_interval": "1m", "$instance": ".*", "$task": ".*"}
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class StackQuery:
    """One question to Prometheus.

    Attributes:
        source: the dashboard, or `alerts`.
        title: of the panel or alert.
        expr: PromQL as it is written there; of an alert without its threshold.
    """

    source: str
    title: str
    expr: str

    @property
    def needs_gpu(self) -> bool:
        return _GPU_RECORDED in self.expr or any(name in self.expr for name in GPU_METRICS)

    @property
    def substituted(self) -> str:
        """With values for Grafana's variables."""
        expr = self.expr
        for name, value in _VARIABLES.items():
            expr = expr.replace(name, value)
        return expr


def dashboard_queries(folder: Path = DASHBOARDS) -> Iterator[StackQuery]:
    """Every query of every panel."""
    for path in sorted(folder.glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield StackQuery(path.stem, panel["title"], target["expr"])


def alert_queries(path: Path = ALERTS) -> Iterator[StackQuery]:
    """What every alert compares with its threshold, and every recording rule."""
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            name = rule.get("alert") or rule["record"]
            yield StackQuery("alerts", name, without_threshold(rule["expr"]))


def without_threshold(expr: str) -> str:
    return re.sub(r"\s(?:==|!=|>=|<=|>|<)\s[\d.]+", "", expr)


def exported_labels() -> dict[str, set[str]]:
    """The name of each sample that a service can export, and its labels."""
    metrics = Metrics()
    metrics.add_model(TaskName.DETECT, "m", backend="b", device="d", dtype="t", sha256="s")
    metrics.watch_queue(depth=_nothing, pixels=_nothing, oldest_age_s=_nothing)
    names: dict[str, set[str]] = {"up": set()}
    for family in metrics.registry.collect():
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
        if family.name.startswith("process_"):
            # the supervisor says whose it is
            names[family.samples[0].name].add("process")
    for name in GPU_METRICS:
        names[name] = set(INFO[2]) if name == INFO[0] else {"gpu"}
    return names


def _nothing(task: TaskName) -> float:
    return 0.0


class Prometheus:
    """Its HTTP interface.

    Args:
        url: e.g. `http://127.0.0.1:9090`.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def series(self, expr: str) -> list[float]:
        """The present value of each series of an expression.

        Raises:
            OSError: it does not answer, or the expression is wrong.
        """
        found = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expr})}")["result"]
        return [float(series["value"][1]) for series in found]

    def targets(self) -> dict[str, str]:
        """The health of each target, by its job."""
        active = self._get("/api/v1/targets")["activeTargets"]
        return {one["labels"]["job"]: one["health"] for one in active}

    def _get(self, path: str) -> dict[str, Any]:
        url = f"{self._url}{path}"
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the operator's
            data: dict[str, Any] = json.load(answer)["data"]
        return data


@dataclass(frozen=True, slots=True)
class StackReport:
    """What Prometheus knew.

    Attributes:
        targets: health by job.
        found: how many series each query had.
        missing: queries without a number.
        no_gpu: those that cannot have one, because there is no GPU here.
    """

    targets: dict[str, str]
    found: dict[StackQuery, int]
    missing: list[StackQuery]
    no_gpu: list[StackQuery]

    @property
    def is_complete(self) -> bool:
        return not self.missing and set(self.targets.values()) == {"up"}


def check_stack(prometheus: Prometheus, *, has_gpu: bool) -> StackReport:
    """Ask for everything."""
    report = StackReport(prometheus.targets(), {}, [], [])
    for query in (*dashboard_queries(), *alert_queries()):
        numbers = [value for value in prometheus.series(query.substituted) if math.isfinite(value)]
        report.found[query] = len(numbers)
        if query.needs_gpu and not has_gpu:
            # figures of a GPU that is not there would be as wrong as none of one that is
            (report.missing if numbers else report.no_gpu).append(query)
        elif not numbers:
            report.missing.append(query)
    return report


def write(report: StackReport, path: Path) -> None:
    """The result file: a row a query."""
    rows = [
        Row(f"{query.source}: {query.title}", query.expr, "series", number)
        for query, number in report.found.items()
        if query not in report.no_gpu
    ]
    write_report(
        path, "stack", rows, cpu_name(),
        targets=report.targets,
        missing=[_line(query) for query in report.missing],
        no_gpu_here=[_line(query) for query in report.no_gpu],
    )  # fmt: skip


def _line(query: StackQuery) -> str:
    return f"{query.source}: {query.title}: {query.expr}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--gpu", action="store_true", help="the service runs on a GPU")
    parser.add_argument("--out", type=Path, help="result file")
    arguments = parser.parse_args()
    report = check_stack(Prometheus(arguments.prometheus), has_gpu=arguments.gpu)
    for job, health in report.targets.items():
        print(f"target {job}: {health}")
    for query in report.no_gpu:
        print(f"no GPU here: {_line(query)}")
    for query in report.missing:
        print(f"MISSING: {_line(query)}")
    queries = len(report.found) - len(report.no_gpu)
    print(f"{queries - len(report.missing)} of {queries} queries have a series")
    if arguments.out:
        write(report, arguments.out)
    return 0 if report.is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
