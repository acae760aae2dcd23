"""What a dashboard is made of, as short as it can be said, and the JSON that Grafana reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

# of provisioning/datasources/prometheus.yml
DATASOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
_COLUMNS: Final = 24
_SCHEMA: Final = 41
# Grafana's variables; `$__rate_interval` is its own
_VARIABLES: Final = {"instance": "up", "task": "smserve_inflight_requests"}


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and what its series are called.

    Attributes:
        name: with the labels of a series, e.g. `p95 {{task}}`.
    """

    expr: str
    name: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram, or one number.

    Attributes:
        queries: their series are shown together.
        unit: as Grafana calls it, e.g. `s`, `reqps`, `bytes`, `percentunit`.
        note: how to read it.
        kind: `timeseries`, `stat` or `table`.
        width: of 24 columns.
        stacked: the series add up to something.
    """

    title: str
    queries: Sequence[Query]
    unit: str
    note: str
    kind: str = "timeseries"
    width: int = 12
    stacked: bool = False

    @property
    def height(self) -> int:
        return 4 if self.kind == "stat" else 8


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of Grafana.

    Attributes:
        uid: also the name of its file.
    """

    uid: str
    title: str
    panels: Sequence[Panel]


def to_json(dashboard: Dashboard) -> dict[str, Any]:
    """As Grafana's provisioning reads it."""
    return {
        "uid": f"smserve-{dashboard.uid}",
        "title": f"smserve: {dashboard.title}",
        "tags": ["smserve"],
        "schemaVersion": _SCHEMA,
        "editable": False,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        # from each page to the others
        "links": [
            {"type": "dashboards", "title": "smserve", "tags": ["smserve"], "keepTime": True,
             "includeVars": True, "asDropdown": False, "targetBlank": False,
             "icon": "external link", "tooltip": "the other pages"}
        ],
        "templating": {"list": [_variable(name, of) for name, of in _VARIABLES.items()]},
        "panels": list(_placed(dashboard.panels)),
    }  # fmt: skip


def _variable(name: str, metric: str) -> dict[str, Any]:
    selector = f'{metric}{{job="smserve"}}'
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values({selector}, {name})", "refId": "values"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """From left to right, in lines as high as their highest panel."""
    x = y = line = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > _COLUMNS:
            x, y, line = 0, y + line, 0
        yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": panel.height})
        x, line = x + panel.width, max(line, panel.height)


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.note,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": _custom(panel)},
            "overrides": [],
        },
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.name,
                "instant": panel.kind == "table",
                "range": panel.kind != "table",
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _custom(panel: Panel) -> dict[str, Any]:
    """How a field is drawn, by the kind of panel."""
    if panel.kind == "stat":
        return {}
    if panel.kind == "table":
        return {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    lines = {"fillOpacity": 10, "showPoints": "never", "spanNulls": False}
    return lines | ({"stacking": {"mode": "normal"}, "fillOpacity": 60} if panel.stacked else {})


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "graphMode": "area",
            "colorMode": "value",
            "textMode": "auto",
            "justifyMode": "auto",
            "orientation": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
        }
    if panel.kind == "table":
        return {"showHeader": True, "frameIndex": 0}
    return {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
