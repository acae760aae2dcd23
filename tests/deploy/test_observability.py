"""Alerts, dashboards and the runbook speak of what the code has."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.check_stack import GPU_METRICS, alert_queries, dashboard_queries, exported_labels
from deploy.grafana.generate import DASHBOARDS, FOLDER, render
from service.telemetry import Metrics
from tests.service.test_gpu_metrics import FakeNvml, figures

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"] if "alert" in rule]
RECORDED = {
    rule["record"]: rule["expr"] for group in RULES for rule in group["rules"] if "record" in rule
}
# what Prometheus adds to every series
TARGET_LABELS = {"instance", "job"}
WORDS = {
    "by", "on", "and", "or", "unless", "sum", "max", "rate", "increase", "changes",
    "histogram_quantile",
}  # fmt: skip
QUERIES = [*dashboard_queries(FOLDER), *alert_queries(PROMETHEUS / "alerts.yml")]


def without_strings(expr: str) -> str:
    return re.sub(r'"[^"]*"', '""', expr)


def metric_names(expr: str) -> set[str]:
    """Everything in an expression that is neither a label, a function, a number nor a duration."""
    bare = re.sub(r"\[[^\]]*\]|\{[^}]*\}", "", without_strings(expr))
    bare = re.sub(r"\b(by|on)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - WORDS


def label_names(expr: str) -> set[str]:
    matched = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expr)
    groups = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expr)
    return {
        *matched,
        *(name.strip() for group in groups for name in group.split(",") if name.strip()),
    }


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    return exported_labels()


def test_there_are_queries() -> None:
    assert len(QUERIES) > 60
    assert {query.source for query in QUERIES} >= {
        "overview",
        "batching",
        "gpu",
        "errors",
        "alerts",
    }


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.source}: {query.title}")
def test_metrics_and_labels_exist(query: Any, exported: dict[str, set[str]]) -> None:
    names = metric_names(query.expr)
    assert names, query.expr
    labels: set[str] = set()
    for name in names:
        measured = RECORDED.get(name)
        if measured is not None:
            assert metric_names(measured) <= exported.keys()
            labels |= label_names(measured) | {"gpu"}
            continue
        assert name in exported, f"{name} is not exported"
        labels |= exported[name]
    assert label_names(query.expr) <= labels | TARGET_LABELS, query.expr


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_ratios_exist(name: str, exported: dict[str, set[str]]) -> None:
    assert metric_names(RECORDED[name]) <= exported.keys()


def test_the_metrics_of_a_gpu_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch)
    metrics = Metrics()
    metrics.watch_gpu("cuda:0")
    assert figures(metrics).keys() == GPU_METRICS


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"]["summary"]
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}
    assert anchor == alert["alert"].lower()


def test_the_runbook_has_nothing_else() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [alert["alert"] for alert in ALERTS]
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert all(f"**{word}**" in part for word in ("Means", "See", "Do", "Harmless")), part[:40]


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fires: dict[str, set[bool]] = {}
    for case in cases:
        for test in case["alert_rule_test"]:
            fires.setdefault(test["alertname"], set()).add(bool(test["exp_alerts"]))
    # that of SmserveRefusing which does not is instance b of its case
    both = {alert["alert"] for alert in ALERTS} - {"SmserveRefusing"}
    assert {name for name, seen in fires.items() if seen == {True, False}} == both


def test_what_promtool_says() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; `make prove-image` needs it and runs these, too")
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [promtool, *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_the_committed_dashboard_is_what_the_code_says(dashboard: Any) -> None:
    committed = (FOLDER / f"{dashboard.uid}.json").read_text(encoding="utf-8")
    assert committed == render(dashboard), "run python -m deploy.grafana.generate"


def test_there_is_no_other_dashboard() -> None:
    assert {path.stem for path in FOLDER.glob("*")} == {own.uid for own in DASHBOARDS}


def pages() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page["uid"])
def test_panels_lie_side_by_side_and_know_their_source(page: dict[str, Any]) -> None:
    source = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"][0]
    taken: set[tuple[int, int]] = set()
    for panel in page["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": source["uid"]}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        assert panel["title"]
        assert panel["description"]
    numbers = [panel["id"] for panel in page["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page["uid"])
def test_legends_name_labels_that_the_query_keeps(page: dict[str, Any]) -> None:
    for panel in page["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= label_names(target["expr"]), (panel["title"], target["expr"])


def test_variables_are_used_and_defined() -> None:
    for page in pages():
        used = set(re.findall(r"\$(\w+)", " ".join(
            target["expr"] for panel in page["panels"] for target in panel["targets"]
        )))  # fmt: skip
        defined = {variable["name"] for variable in page["templating"]["list"]}
        assert used - {"__rate_interval"} <= defined
