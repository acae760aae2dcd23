"""The tables of docs/scaling.md, from committed result files and from the code.

python -m benchmarks.scaling_table

Rates over HTTP are taken from loadtests/results/http-h100-*.json; a model that none of them has is
shown with the rate of the bare engine (benchmarks/results/gpu-h100.json), and named as such.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks.report import ROOT, Row, update_page
from benchmarks.scaling import (
    Assumptions,
    cores_for,
    cost_per_million,
    failures_per_day,
    gbit_per_s,
    gpus_for,
    mean_away,
    mean_wait,
    pull_s,
    share_before_ramp,
)
from benchmarks.series import count_series
from model.config import ModelSpec, TaskName

PAGE: Final = ROOT / "docs/scaling.md"
BARE: Final = ROOT / "benchmarks/results/gpu-h100.json"
DECODING: Final = ROOT / "loadtests/results/decode-h100.json"
HTTP: Final = "http-h100*.json"
ASSUMED: Final = Assumptions()
# what the load tests send, bytes of a JPEG file
PICTURE_BYTES: Final = {
    TaskName.CLASSIFY: 50_000,
    TaskName.DETECT: 280_000,
    TaskName.SEGMENT: 70_000,
}
# model -> the case of the bare engine
BARE_CASES: Final = {
    "classify-tiny": "classify-tiny-224-b128",
    "classify-small": "classify-small-224-b128",
    "classify-base": "classify-base-224-b128",
    "segment-tiny": "segment-tiny-512x512-b16",
    "detect-tiny": "detect-tiny-800x1344-b4",
}
WANTED_RATES: Final = (1_000, 10_000, 100_000, 1_000_000)
FLEETS: Final = (10, 100, 1_000)
PRICES: Final = (1.0, 2.0, 4.0)
DOUBLINGS_S: Final = (60, 300, 900, 3600)
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Rate:
    """What one GPU does.

    Attributes:
        over: `HTTP`, or `bare engine`: from decoded pictures on, without front ends.
        front_ms: processor time of all processes per image, milliseconds; None: not measured.
    """

    model: str
    images_per_s: float
    over: str
    front_ms: float | None = None

    @property
    def task(self) -> TaskName:
        return TaskName(self.model.split("-")[0])


def rates(http: Sequence[Path], bare: Path) -> list[Rate]:
    """One for each model that was measured, the newest of each."""
    found = _bare_rates(_rows(bare))
    for path in sorted(http, key=lambda one: str(_report(one)["date"])):
        found |= _http_rates(_rows(path))
    return list(found.values())


def _bare_rates(rows: Iterable[Row]) -> dict[str, Rate]:
    values = {row.case: row.value for row in rows if row.metric == "throughput"}
    return {
        model: Rate(model, values[case], "bare engine")
        for model, case in BARE_CASES.items()
        if case in values
    }


def _http_rates(rows: Sequence[Row]) -> dict[str, Rate]:
    found = {}
    for row in rows:
        match = re.fullmatch(r"((?:classify|detect|segment)-\w+)-\d+x\d+", row.case)
        if match and row.metric == "capacity":
            found[match[1]] = Rate(match[1], row.value, "HTTP", _processor_ms(rows, row.case))
    return found


def _processor_ms(rows: Sequence[Row], label: str) -> float | None:
    """Of the closed loop with the highest rate."""
    loops = [
        row
        for row in rows
        if re.fullmatch(rf"{re.escape(label)}-c\d+", row.case) and row.metric == "throughput"
    ]
    if not loops:
        return None
    best = max(loops, key=lambda row: row.value).case
    spent = [row.value for row in rows if row.case == best and row.metric.startswith("cpu of ")]
    return sum(spent) if spent else None


def _report(path: Path) -> Mapping[str, Any]:
    report: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def _rows(path: Path) -> list[Row]:
    return [Row(**row) for row in _report(path)["rows"]]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def assumed_table() -> str:
    """What readers should replace by their own."""
    a = ASSUMED
    lines = [
        ["planned share of a GPU's measured rate", f"{a.share:.0%}"],
        [
            "scrape, poll of KEDA, look of the pod autoscaler: every",
            _seconds(a.scrape_s, a.poll_s, a.autoscaler_s),
        ],
        ["a pod is scheduled, imports everything, reads its models", _seconds(a.process_s)],
        ["a new node, with its driver", _seconds(a.node_s)],
        ["GPU image, as pulled", f"{a.image_bytes / 1e9:g} GB"],
        ["a node unpacks", f"{a.unpack_bytes_per_s / 1e6:g} MB/s"],
        ["registry, for all nodes together", f"{a.registry_gbit_per_s:g} Gbit/s"],
        ["network of a node", f"{a.node_gbit_per_s:g} Gbit/s"],
        ["GPUs of a node", f"{a.gpus_per_node}"],
        [
            "days between failures of one GPU, whatever takes its pod away",
            f"{a.days_between_failures:g}",
        ],
    ]
    return table(["assumed, not measured", ""], lines)


def _seconds(*values: float) -> str:
    return ", ".join(f"{value:g} s" for value in values)


def rates_table(found: Sequence[Rate]) -> str:
    """GPUs for so many images per second."""
    head = ["model", "images/s of one GPU", "over", *(f"GPUs for {n:,}/s" for n in WANTED_RATES)]
    lines = [
        [
            rate.model,
            f"{rate.images_per_s:,.0f}",
            rate.over,
            *(f"{gpus_for(n, rate.images_per_s, ASSUMED.share):,}" for n in WANTED_RATES),
        ]
        for rate in found
    ]
    return table(head, lines)


def waiting_table(http: Sequence[Path]) -> str:
    """Waiting against load: by theory, and as measured where it was."""
    loads = (0.5, 0.7, 0.8, 0.9, 0.95)
    theory = table(
        ["load", *(f"{load:.0%}" for load in loads)],
        [["mean wait, service times", *(f"{mean_wait(load):.2f}" for load in loads)]],
    )
    rows = [row for path in http for row in _rows(path)]
    values = {(row.case, row.metric): row.value for row in rows}
    cases = dict.fromkeys(row.case for row in rows if re.search(r"-open-\d+%$", row.case))
    lines = [
        [f"`{case}`", *(f"{values[case, f'latency p{p}']:,.1f}" for p in (50, 99))]
        for case in cases
        if (case, "latency p50") in values and re.match("classify|detect|segment", case)
    ]
    if not lines:
        return theory
    return f"{theory}\n\n{table(['over HTTP, measured', 'p50, ms', 'p99, ms'], lines)}"


def start_s() -> float:
    """From a scheduled pod to a warm model: tiny classification, kernels compiled before."""
    warm_up = max(row.value for row in _rows(BARE) if row.metric == "warm-up")
    return ASSUMED.process_s + warm_up


def reaction_s(*, new_node: bool) -> float:
    """From the load to the first answer of a new pod, at the latest."""
    loop = ASSUMED.scrape_s + ASSUMED.poll_s + ASSUMED.autoscaler_s + start_s()
    return loop + (ASSUMED.node_s + image_s(1) if new_node else 0.0)


def image_s(nodes: int) -> float:
    """Until so many nodes, all at once, have the image, unpacked."""
    pulled = pull_s(
        ASSUMED.image_bytes,
        nodes,
        registry_gbit_per_s=ASSUMED.registry_gbit_per_s,
        node_gbit_per_s=ASSUMED.node_gbit_per_s,
    )
    return max(pulled, ASSUMED.image_bytes / ASSUMED.unpack_bytes_per_s)


def ramp_table() -> str:
    """How full pods may be before a ramp."""
    head = [
        "help comes",
        "after",
        *(f"load doubles in {seconds // 60} min" for seconds in DOUBLINGS_S),
    ]
    lines = []
    for name, new_node in (("on a node that is there", False), ("on a new node", True)):
        seconds = reaction_s(new_node=new_node)
        shares = [f"{share_before_ramp(seconds, doubling):.0%}" for doubling in DOUBLINGS_S]
        lines.append([name, f"{seconds:.0f} s", *shares])
    return table(head, lines)


def pull_table() -> str:
    """Images and models for many nodes at once."""
    largest = max(published_bytes().values())
    lines = []
    for gpus in (*FLEETS, 8_000):
        nodes = math.ceil(gpus / ASSUMED.gpus_per_node)
        model = pull_s(
            largest,
            nodes,
            registry_gbit_per_s=ASSUMED.registry_gbit_per_s,
            node_gbit_per_s=ASSUMED.node_gbit_per_s,
        )
        traffic = nodes * ASSUMED.image_bytes / 1e12
        lines.append(
            [
                f"{gpus:,}",
                f"{nodes:,}",
                f"{traffic:.2f} TB",
                f"{image_s(nodes):,.0f} s",
                f"{model:.1f} s",
            ]
        )
    return table(["GPUs", "nodes", "image, all nodes", "image there", "largest model there"], lines)


@cache
def published_bytes() -> Mapping[str, int]:
    """Sizes of the published models as files of ours, without their few kB of metadata."""
    from benchmarks.bench_cpu import make_spec

    return {
        f"{task}-{variant}": weight_bytes(make_spec(task, variant))
        for task in TaskName
        for variant in ("tiny", "small", "base")
    }


def weight_bytes(spec: ModelSpec) -> int:
    """Of all weights, without making them."""
    import torch

    from model.checkpoint import build_network

    with torch.device("meta"):
        state = build_network(spec).state_dict()
    return sum(one.numel() * one.element_size() for one in state.values())


def models_table() -> str:
    """MiB of model files."""
    sizes = published_bytes()
    shipped = sum(path.stat().st_size for path in (ROOT / "demo/weights").glob("*.safetensors"))
    lines = [
        [
            task,
            *(f"{sizes[f'{task}-{variant}'] / MIB:.0f}" for variant in ("tiny", "small", "base")),
        ]
        for task in TaskName
    ]
    demo = f"The three demo models together: {shipped / MIB:.0f} MiB."
    return f"{table(['MiB', 'tiny', 'small', 'base'], lines)}\n\n{demo}"


def series_table() -> str:
    """Time series of pods."""
    lines = []
    for name, fronts in (("one process", 0), ("12 front ends, two engines", 12)):
        for models in (1, 3, 9):
            series = count_series(models=models, fronts=fronts, engines=2 if fronts else 1)
            fleets = [f"{series * pods:,}" for pods in FLEETS]
            samples = f"{series * FLEETS[-1] / ASSUMED.scrape_s:,.0f}"
            lines.append([name, f"{models}", f"{series:,}", *fleets, samples])
    head = ["a pod", "models", "series", *(f"{pods:,} pods" for pods in FLEETS)]
    return table([*head, f"samples/s of {FLEETS[-1]:,} pods"], lines)


def failures_table() -> str:
    """What is always away."""
    lines = []
    for gpus in FLEETS:
        per_day = failures_per_day(gpus, ASSUMED.days_between_failures)
        away = [
            f"{mean_away(gpus, seconds, ASSUMED.days_between_failures):.3f}"
            for seconds in (start_s(), ASSUMED.node_s + image_s(1) + start_s())
        ]
        lines.append([f"{gpus:,}", f"{per_day:,.1f}", *away])
    head = ["GPUs", "failures a day", "GPUs away: pod restarts", "GPUs away: node is replaced"]
    return table(head, lines)


def decoded_per_core(path: Path) -> dict[TaskName, float]:
    """JPEG files of each task's size that a core decodes in a second while all of them do."""
    cores = int(_report(path)["cores"])
    suffix = f"-{cores}-processes"
    return {
        TaskName(row.case.split("-")[0]): row.value / cores
        for row in _rows(path)
        if row.case.endswith(suffix)
    }


def node_table(found: Sequence[Rate]) -> str:
    """What one GPU, and a node with several, needs around it."""
    per_core = decoded_per_core(DECODING)
    lines = []
    for rate in found:
        planned = ASSUMED.share * rate.images_per_s
        incoming = gbit_per_s(planned, PICTURE_BYTES[rate.task])
        decoding = f"{cores_for(planned, per_core[rate.task]):.1f}"
        spent = "" if rate.front_ms is None else f"{planned * rate.front_ms / 1000:.1f}"
        line = [rate.model, rate.over, f"{planned:,.0f}", decoding, spent, f"{incoming:.2f}"]
        lines.append([*line, f"{incoming * ASSUMED.gpus_per_node:.1f}"])
    head = [
        "model",
        "rate over",
        f"images/s at {ASSUMED.share:.0%}",
        "cores that only decode JPEG",
        "cores, all of the service",
        "Gbit/s in, one GPU",
        f"Gbit/s in, {ASSUMED.gpus_per_node} GPUs",
    ]
    each = ", ".join(f"{rate:,.0f} ({task})" for task, rate in per_core.items())
    return f"A core, while all decode, decodes so many a second: {each}.\n\n{table(head, lines)}"


def cost_table(found: Sequence[Rate]) -> str:
    """Prices of a GPU hour are examples, not offers."""
    head = ["model", "rate over", *(f"at {price:.0f} a GPU hour" for price in PRICES)]
    lines = [
        [
            rate.model,
            rate.over,
            *(f"{cost_per_million(p, rate.images_per_s, ASSUMED.share):.3f}" for p in PRICES),
        ]
        for rate in found
    ]
    return table(head, lines)


def blocks() -> dict[str, str]:
    """Everything between the markers of the page."""
    http = sorted((ROOT / "loadtests/results").glob(HTTP))
    found = rates(http, BARE)
    return {
        "assumed": assumed_table(),
        "rates": rates_table(found),
        "waiting": waiting_table(http),
        "ramp": ramp_table(),
        "pull": pull_table(),
        "models": models_table(),
        "series": series_table(),
        "failures": failures_table(),
        "node": node_table(found),
        "cost": cost_table(found),
    }


def main() -> None:
    """Write them."""
    for name, text in blocks().items():
        update_page(PAGE, name, text)


if __name__ == "__main__":
    main()
