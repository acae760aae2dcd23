"""Plots and tables of docs/performance.md from the result files of the GPU benchmarks.

python -m benchmarks.plot_performance --results benchmarks/results/*-h100.json

Needs matplotlib (the extra `demo`), unless `--table-only`.
"""

import argparse
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.bench_rivals import COMPILED, GRAPH, OURS
from benchmarks.report import ROOT, Row, update_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS: Final = tuple(
    ROOT / f"benchmarks/results/{name}-h100.json"
    for name in ("gpu", "rivals", "rivals-batches", "rivals-sides")
)
PAGE: Final = ROOT / "docs/performance.md"
IMAGES: Final = ROOT / "docs/images"
THROUGHPUT_PLOT, LATENCY_PLOT = "throughput.webp", "latency.webp"
# peers beside each of our sizes: CAFormer has about the same ImageNet accuracy, the others the
# same arithmetic
PEERS: Final = {
    "tiny": ("caformer_s18", "convnext_tiny", "swin_tiny_patch4_window7_224"),
    "small": ("caformer_s36",),
    "base": ("caformer_m36",),
}
SERVED: Final = "smserve"
CASE: Final = re.compile(r"(?P<model>.+)-(?P<size>\d+)-b(?P<batch>\d+)")
LARGE_BATCH: Final = 128
MARKERS: Final = "osv^D"  # by order in the legend; equal points stay apart
LINE_POINTS: Final = 3  # a line through two points would claim what lies between


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """One point: which model, run by what (`smserve` or `torch.compile`), on which input."""

    model: str
    through: str
    size: int
    batch: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Images per second and milliseconds, both of the median call."""

    throughput: float
    latency: float


def read_reports(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Result files of one device.

    Raises:
        ValueError: of several devices, whose figures cannot stand side by side.
    """
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    devices = sorted({report["device"] for report in reports})
    if len(devices) != 1:
        raise ValueError(f"results must come from one device, got {devices}")
    return reports


def rows_of(reports: Iterable[dict[str, Any]]) -> list[Row]:
    """All rows; where files have the same case and metric, the last one counts.

    A case whose graph was not measured is left out: launch overhead is not held against a peer.
    """
    rows = [
        Row(**row)
        for report in reports
        for row in report["rows"]
        if f"{row['case']}, {GRAPH}" not in (report.get("failures") or {})
    ]
    return list({(row.case, row.metric): row for row in rows}.values())


def points(rows: Iterable[Row]) -> dict[Key, Figures]:
    """Classification at one size and batch; of the compiled ways to run it the faster counts."""
    by_metric = {(row.case, row.metric): row.value for row in rows}
    found: dict[Key, Figures] = {}
    for (case, metric), throughput in by_metric.items():
        parts = CASE.fullmatch(case)
        how, _, what = metric.rpartition(": ")
        if parts is None or what != "throughput" or how not in ("", COMPILED, GRAPH):
            continue
        key = Key(
            parts["model"], COMPILED if how else SERVED, int(parts["size"]), int(parts["batch"])
        )
        if key not in found or throughput > found[key].throughput:
            latency = by_metric[case, metric.replace("throughput", "latency")]
            found[key] = Figures(throughput, latency)
    return found


def peers_table(found: dict[Key, Figures]) -> str:
    """Per size: ours, our network through the compiler, and the peers, with ratios."""
    lines = [
        "| model | runs through | images/s, batch 128 | we have | ms, batch 1 | we need |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for variant in PEERS:
        for model, through in _series(variant):
            many = found.get(Key(model, through, 224, LARGE_BATCH))
            one = found.get(Key(model, through, 224, 1))
            if many is None and one is None:
                continue
            ours = [found.get(Key(OURS + variant, SERVED, 224, b)) for b in (LARGE_BATCH, 1)]
            cells = [
                _label(model),
                through,
                f"{many.throughput:,.0f}" if many else "",
                _ratio(ours[0], many, "throughput"),
                f"{one.latency:.2f}" if one else "",
                _ratio(ours[1], one, "latency"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cases_table(rows: Sequence[Row]) -> str:
    """Our own cases, one a line, as the benchmark named them."""
    metrics = {
        "throughput": ",.0f",
        "latency": ".2f",
        "latency p10": ".2f",
        "latency p90": ".2f",
        "latency p99": ".2f",
        "peak memory": ",.0f",
        "throughput / roofline": ".0%",
        "throughput / torch.compile": ".2f",
    }
    by_metric = {(row.case, row.metric): row.value for row in rows}
    lines = [
        "| case | images/s | ms, median | p10 | p90 | p99 | peak MiB | of the ceiling "
        "| over `torch.compile` |",
        "| --- " * 9 + "|",
    ]
    for case in dict.fromkeys(row.case for row in rows if row.metric == "throughput"):
        values = [(by_metric.get((case, metric)), form) for metric, form in metrics.items()]
        cells = ["" if value is None else format(value, form) for value, form in values]
        lines.append(f"| `{case}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def provenance(reports: Sequence[dict[str, Any]], rows: Iterable[Row]) -> str:
    """Device, versions, dates and commits, ceilings and start-up in sentences."""
    versions = {name: v for report in reports for name, v in report["versions"].items()}
    named = ", ".join(f"{n} {versions[n]}" for n in ("torch", "triton", "timm") if n in versions)
    dates = " and ".join(sorted({report["date"][:10] for report in reports}))
    commits = " and ".join(sorted({f"`{report['commit']}`" for report in reports}))
    rows = list(rows)
    ceilings = [f"{r.metric} {r.value:,.0f} {r.unit}" for r in rows if r.case == "device"]
    starts = [
        f"{r.case.removeprefix(OURS).split('-')[0]} {r.value:.0f} s"
        for r in rows
        if r.metric == "warm-up"
    ]
    text = f"{reports[0]['device']}; {named}; {dates}; commit {commits}."
    if ceilings:
        text += f" The device reaches: {'; '.join(ceilings)}."
    if starts:
        text += f" Start-up with all default batch sizes: {', '.join(starts)}."
    return text


def update_tables(page: Path, reports: Sequence[dict[str, Any]]) -> None:
    """Everything between the page's markers except the plots."""
    rows = rows_of(reports)
    update_page(page, "measured on", provenance(reports, rows))
    update_page(page, "peers table", peers_table(points(rows)))
    update_page(page, "cases table", cases_table(rows))


def draw(found: dict[Key, Figures], folder: Path) -> None:
    """Both plots; no latency against a single size.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as exc:
        raise RuntimeError("plots need matplotlib: pip install '.[demo]', or --table-only") from exc
    mpl.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure, panels = pyplot.subplots(
        1, len(PEERS), figsize=(12, 4.2), sharey=True, layout="constrained"
    )
    for panel, variant in zip(panels, PEERS, strict=True):
        _throughput_panel(panel, variant, found)
    panels[0].set_ylabel("images/s")
    figure.savefig(folder / THROUGHPUT_PLOT, dpi=120)
    pyplot.close(figure)
    if len(sizes_at_batch_1(found)) < 2:
        return
    figure, panel = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    _latency_panel(panel, "tiny", found)
    figure.savefig(folder / LATENCY_PLOT, dpi=120)
    pyplot.close(figure)


def sizes_at_batch_1(found: Iterable[Key]) -> list[int]:
    """Sides of the images that were measured alone."""
    return sorted({key.size for key in found if key.batch == 1})


def _throughput_panel(panel: "Axes", variant: str, found: dict[Key, Figures]) -> None:
    from matplotlib.ticker import LogLocator

    for order, (model, through) in enumerate(_series(variant)):
        values = {
            key.batch: figures.throughput
            for key, figures in sorted(found.items())
            if (key.model, key.through, key.size) == (model, through, 224)
        }
        _line(panel, values, (model, through), order)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", subs=[])
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:.0f}")
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.set(title=variant, xlabel="batch size")
    _finish(panel)


def _latency_panel(panel: "Axes", variant: str, found: dict[Key, Figures]) -> None:
    for order, (model, through) in enumerate(_series(variant)):
        values = {
            key.size: figures.latency
            for key, figures in sorted(found.items())
            if (key.model, key.through, key.batch) == (model, through, 1)
        }
        _line(panel, values, (model, through), order)
    panel.set_xticks(sizes_at_batch_1(found))
    panel.set(title=f"{variant}, batch 1", xlabel="image side, pixels", ylabel="ms")
    panel.set_ylim(bottom=0)
    _finish(panel)


def _line(panel: "Axes", values: dict[int, float], series: tuple[str, str], order: int) -> None:
    if not values:
        return
    model, through = series
    panel.plot(
        list(values),
        list(values.values()),
        marker=MARKERS[order % len(MARKERS)],
        color=f"C{order}",  # a missing series must not hand its colour to the next one
        linestyle="-" if len(values) >= LINE_POINTS else "none",
        linewidth=2.5 if through == SERVED else 1.2,
        label=f"{_label(model)}, {through}",
    )


def _finish(panel: "Axes") -> None:
    panel.grid(alpha=0.3)
    if panel.lines:
        panel.legend(fontsize=8)


def _series(variant: str) -> list[tuple[str, str]]:
    """(model, runs through) in the order of tables and legends."""
    ours = OURS + variant
    return [(ours, SERVED), (ours, COMPILED), *((peer, COMPILED) for peer in PEERS[variant])]


def _label(model: str) -> str:
    if model.startswith(OURS):
        return f"Spatial-Mamba {model.removeprefix(OURS)}"
    return model.split("_patch")[0]


def _ratio(ours: Figures | None, other: Figures | None, what: str) -> str:
    if ours is None or other is None:
        return ""
    return f"{getattr(ours, what) / getattr(other, what):.2f} x"


def _plot_links(page: Path, folder: Path, found: Iterable[Key]) -> str:
    where = Path(os.path.relpath(folder, page.parent)).as_posix()
    links = [f"![Images per second against batch size]({where}/{THROUGHPUT_PLOT})"]
    if len(sizes_at_batch_1(found)) > 1:
        links.append(f"![Latency against image size]({where}/{LATENCY_PLOT})")
    return "\n\n".join(links)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, nargs="+", default=list(RESULTS))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--table-only", action="store_true", help="leave the plots alone")
    args = parser.parse_args()
    reports = read_reports(args.results)
    update_tables(args.page, reports)
    if not args.table_only:
        found = points(rows_of(reports))
        draw(found, args.images)
        update_page(args.page, "plots", _plot_links(args.page, args.images, found))


if __name__ == "__main__":
    main()
