"""How far the served models are from the published implementation: result file and docs table.

python -m benchmarks.golden_differences
"""

import argparse
import json
from typing import Any

import torch

from benchmarks.report import ROOT, Row, update_page, write_report
from tests.model import golden
from tests.model.golden_runs import (
    Outcome,
    load_published,
    run_photo_case,
    run_tap_case,
    run_tensor_case,
)

RUNNERS = {"tensor": run_tensor_case, "taps": run_tap_case, "photo": run_photo_case}
UNITS = {
    "max_abs": "logit",
    "relative_to_abs_max": "ratio",
    "different": "pixels",
    "different_where_sure": "pixels",
    "max_box": "px",
    "max_score": "probability",
    "max_mask": "share of the box",
}
RESULT = ROOT / "benchmarks/results/golden-cpu.json"
PAGE = ROOT / "docs/numerics.md"


def rows_of(case: str, outcomes: list[Outcome]) -> list[Row]:
    rows = []
    for outcome in outcomes:
        if not outcome.ok:
            raise SystemExit(f"{case}, {outcome.what}: outside the tolerance: {outcome.report}")
        rows += [
            Row(case, f"{outcome.what}: {key}", unit, float(outcome.report[key]))
            for key, unit in UNITS.items()
            if key in outcome.report
        ]
    return rows


def run_all() -> list[Row]:
    cases = sorted(
        (golden.load_case(name)[0]["manifest"], kind, name)
        for kind in RUNNERS
        for name in golden.case_names(kind=kind)
    )
    rows: list[Row] = []
    loaded, predictor = "", None
    for manifest, kind, name in cases:
        if manifest != loaded or predictor is None:
            predictor = None
            predictor, loaded = load_published(manifest), manifest
        with torch.inference_mode():
            rows += rows_of(name, RUNNERS[kind](name, predictor))
        print(name, flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Worst difference of each model over its cases, as a Markdown table."""
    worst: dict[tuple[str, str], float] = {}
    for row in rows:
        task, variant = row["case"].split("_")[:2]
        what, metric = row["metric"].split(": ")
        if what not in ("logits", "class map", "detections"):
            metric = "stages"
        key = (f"{task} {variant}", metric)
        worst[key] = max(worst.get(key, 0.0), row["value"])
    lines = [
        "| model | logits, max abs | intermediate values, relative | boxes, px | scores | masks, "
        "share of the box | class map, pixels | of these with a clear margin |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    columns = ("max_abs", "stages", "max_box", "max_score", "max_mask", "different")
    for model in dict.fromkeys(name for name, _ in worst):
        cells = [_cell(worst.get((model, column))) for column in columns]
        cells.append(_cell(worst.get((model, "different_where_sure"))))
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value == int(value) else f"{value:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table-only", action="store_true", help="from the committed result")
    if not parser.parse_args().table_only:
        write_report(RESULT, "golden-differences", run_all())
    update_page(PAGE, "golden table", table(json.loads(RESULT.read_text())["rows"]))


if __name__ == "__main__":
    main()
