"""Where the time of a request goes, by load: a plot from the results of `loadtests.bench_http`.

python -m benchmarks.plot_stages --results loadtests/results/http-h100.json

One panel a task, one bar a level of load, one colour a stage. Needs matplotlib (the extra `demo`).
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.plot_performance import read_reports, rows_of
from benchmarks.report import ROOT, Row
from service.telemetry import STAGES as SERVED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT: Final = ROOT / "docs/images/stages.webp"
# in the order in which a request meets them; the rest is network, parsing, writing, waiting for
# the event loop
STAGES: Final = (*SERVED, "rest")
_METRIC: Final = "stage "
_LEVEL: Final = re.compile(r"(?P<model>.+)-(?P<level>c\d+|open-\d+%)")

# model -> level -> stage -> milliseconds
Panels = dict[str, dict[str, dict[str, float]]]


def panels_of(rows: Iterable[Row]) -> Panels:
    """Stage times of every level: closed loops by clients, then open loops by rate."""
    panels: Panels = {}
    for row in rows:
        level = _LEVEL.fullmatch(row.case)
        stage = row.metric.removeprefix(_METRIC)
        if level is None or stage == row.metric or stage not in STAGES:
            continue
        levels = panels.setdefault(level["model"], {})
        levels.setdefault(level["level"], {})[stage] = row.value
    return {model: dict(sorted(levels.items(), key=_load)) for model, levels in panels.items()}


def _load(level: tuple[str, object]) -> tuple[str, int]:
    """The benchmark measures in the order of importance, which is not that of the load."""
    name, _ = level
    return re.sub(r"\d.*", "", name), int(re.sub(r"\D", "", name))


def level_label(level: str) -> str:
    """As the axis names it: so many clients, or a part of the capacity."""
    if level.startswith("c"):
        clients = int(level[1:])
        return "1 client" if clients == 1 else f"{clients} clients"
    return f"{level.removeprefix('open-')} of capacity"


def draw(panels: Panels, path: Path) -> None:
    """Write the plot.

    Raises:
        RuntimeError: matplotlib is not installed.
        ValueError: no result has stage times.
    """
    if not panels:
        raise ValueError("the results have no stage times")
    try:
        import matplotlib as mpl
    except ImportError as exc:
        raise RuntimeError("plots need matplotlib: pip install '.[demo]'") from exc
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(1 + 4.5 * len(panels), 4.4), layout="constrained", squeeze=False
    )
    for panel, (model, levels) in zip(axes[0], panels.items(), strict=True):
        _panel(panel, model, levels)
    axes[0][0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _panel(panel: "Axes", model: str, levels: dict[str, dict[str, float]]) -> None:
    names = [level_label(level) for level in levels]
    left = [0.0] * len(levels)
    for order, stage in enumerate(STAGES):
        widths = [stages.get(stage, 0.0) for stages in levels.values()]
        panel.barh(names, widths, left=left, color=f"C{order}", label=stage)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    panel.invert_yaxis()  # the lightest load on top
    panel.set(title=model, xlabel="ms, mean of the requests")
    panel.grid(axis="x", alpha=0.3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=PLOT)
    args = parser.parse_args(arguments)
    draw(panels_of(rows_of(read_reports(args.results))), args.out)


if __name__ == "__main__":
    main()
