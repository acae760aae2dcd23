"""Every dashboard is valid by the types that Grafana publishes; unknown fields are errors."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.grafana.generate import FOLDER
from deploy.grafana.panels import DATASOURCE

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data/grafana"
SCHEMAS = json.loads((DATA / "schemas.json").read_text(encoding="utf-8"))
UNITS = set(json.loads((DATA / "units.json").read_text(encoding="utf-8")))
FILES = sorted(FOLDER.glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def validate(dashboard: dict[str, Any]) -> None:
    """Raise for a field, a value or a unit that Grafana does not know."""
    jsonschema.validate(dashboard, SCHEMAS["dashboard"])
    for panel in dashboard["panels"]:
        kind = SCHEMAS[panel["type"]]["properties"]
        defaults = panel["fieldConfig"]["defaults"]
        jsonschema.validate(panel["options"], kind["options"])
        jsonschema.validate(defaults["custom"], kind["custom"])
        jsonschema.validate(defaults["unit"], {"enum": sorted(UNITS)})
        for query in panel["targets"]:
            jsonschema.validate(query, SCHEMAS["query"])


def test_there_are_dashboards() -> None:
    assert {path.stem for path in FILES} == {"overview", "batching", "gpu", "errors"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_dashboard_is_valid(path: Path) -> None:
    validate(load(path))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["refrsh"], "5s"),
        (["time", "from"], 30),
        (["links", 0, "type"], "page"),
        (["templating", "list", 0, "refresh"], 7),
        (["panels", 0, "gridPos", "width"], 12),
        (["panels", 0, "fieldConfig", "defaults", "units"], "s"),
        (["panels", 0, "fieldConfig", "defaults", "unit"], "furlong"),
        (["panels", 0, "targets", 0, "expression"], "up"),
        (["panels", 0, "targets", 0, "format"], "json"),
    ],
)
def test_a_mistake_is_found(keys: list[Any], value: Any) -> None:
    dashboard = copy.deepcopy(load(FOLDER / "overview.json"))
    place: Any = dashboard
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(dashboard)


@pytest.mark.parametrize("kind", ["stat", "table", "timeseries"])
@pytest.mark.parametrize(
    ("part", "key"), [(("options",), "colourMode"), (("fieldConfig", "defaults", "custom"), "fill")]
)
def test_a_mistake_in_a_panel_is_found(kind: str, part: tuple[str, ...], key: str) -> None:
    panels = [
        (path, i) for path in FILES for i, p in enumerate(load(path)["panels"]) if p["type"] == kind
    ]
    path, index = panels[0]
    dashboard = load(path)
    place = dashboard["panels"][index]
    for name in part:
        place = place[name]
    place[key] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate(dashboard)


def test_the_schemas_are_of_the_image_that_is_started() -> None:
    image = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["grafana"]["image"]
    version = re.search(r"`@grafana/schema` ([\d.]+),", (DATA / "README.md").read_text())
    assert version is not None
    assert image == f"grafana/grafana:{version[1]}"


def test_the_data_source_is_the_provisioned_one() -> None:
    folder = ROOT / "deploy/grafana/provisioning/datasources"
    sources = [
        source
        for path in folder.glob("*.yml")
        for source in yaml.safe_load(path.read_text())["datasources"]
    ]
    assert DATASOURCE in [{"type": own["type"], "uid": own["uid"]} for own in sources]
