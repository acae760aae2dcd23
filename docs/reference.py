"""The pages docs/settings.md and docs/metrics.md, from the code.

python -m docs.reference

Settings are described by the `Attributes:` of their classes, metrics by their help texts; nothing
is written here but the words around the tables.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from model.config import TaskName
from service.capacity import capacity_for
from service.gpu_metrics import FIGURES, INFO
from service.metrics_snapshot import Family, Merge, parse_snapshot
from service.setting_groups import BatchSettings, QueueSettings, Section
from service.settings import ENV_PREFIX, Settings
from service.telemetry import Metrics

FOLDER: Final = Path(__file__).parent
_WRITTEN_BY: Final = "<!-- written by `python -m docs.reference` (make docs); do not edit -->"
_ATTRIBUTES: Final = "Attributes:\n"
_KINDS: Final = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true`, `false`",
}
_LIMITS: Final = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
}
_MERGES: Final = {
    Merge.SUM: "sum",
    Merge.MAX: "largest",
    Merge.MIN: "smallest",
    Merge.SAME: "once",
    Merge.EACH: "each, label `process`",
}
_INSTANCE: Final = "model"

Schema = Mapping[str, Any]


def attributes_of(cls: type) -> dict[str, str]:
    """The names and texts below `Attributes:` of a class's docstring, each in one line."""
    text = inspect.getdoc(cls) or ""
    if _ATTRIBUTES not in text:
        return {}
    found: dict[str, str] = {}
    for line in text.partition(_ATTRIBUTES)[2].splitlines():
        if match := re.fullmatch(r"    (\w+): (.+)", line):
            name = match[1]
            found[name] = match[2]
        elif line.strip():
            found[name] += f" {line.strip()}"
    return found


def settings_page() -> str:
    """All of docs/settings.md."""
    schema = Settings.model_json_schema()
    rows: list[str] = []
    groups: list[str] = []
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Section):
            groups += ["", f"## {name}", "", _summary(group), ""]
            properties = schema["$defs"][group.__name__]["properties"]
            groups += _settings_table(group, properties, f"{name}.")
        else:
            rows.append(name)
    own = {name: schema["properties"][name] for name in rows}
    table = _settings_table(Settings, own, "")
    return "\n".join([*_SETTINGS_INTRODUCTION, *table, *groups, *_by_device(), ""])


def _by_device() -> Iterable[str]:
    """What `service.capacity` fills in."""
    nothing = Settings(batch=BatchSettings(), queue=QueueSettings())
    cpu, gpu = (capacity_for(nothing, device) for device in ("cpu", "cuda:0"))
    yield from ("", "## By device", "", "Where no number is set:", "")
    yield from ("| setting | CPU | GPU |", "| --- | --- | --- |")
    for field in fields(cpu):
        group, _, name = field.name.partition("_")
        values = (f"{getattr(one, field.name):,}" for one in (cpu, gpu))
        yield f"| `{group}.max_{name}` | {' | '.join(values)} |"


_SETTINGS_INTRODUCTION: Final = (
    _WRITTEN_BY,
    "",
    "# Settings",
    "",
    "Each setting can come from the command line (some: `smserve serve --help`), the environment, "
    "a YAML file (`--config`), in this order; else the default holds. An unknown name is an error, "
    "and so is a value out of range. `smserve config` prints what is in force.",
    "",
    "Lists are written `a,b` or as JSON. In YAML, groups are mappings: `batch: {max_images: 8}`. "
    '"None" in a description is an empty default: leave the setting out.',
    "",
)


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition(f"\n\n{_ATTRIBUTES}")[0].replace("\n", " ")


def _settings_table(cls: type, properties: Schema, prefix: str) -> Iterable[str]:
    texts = attributes_of(cls)
    yield "| setting | variable | values | default | |"
    yield "| --- | --- | --- | --- | --- |"
    for name, schema in properties.items():
        full = f"{prefix}{name}"
        variable = f"{ENV_PREFIX}{full.replace('.', '__')}".upper()
        cells = (f"`{full}`", f"`{variable}`", _values(schema), _default(schema), texts[name])
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _values(schema: Schema) -> str:
    if "anyOf" in schema:
        options = [one for one in schema["anyOf"] if one.get("type") != "null"]
        return ", or ".join(map(_values, options))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        least = f", at least {schema['minItems']}" if "minItems" in schema else ""
        return f"list of: {_values(schema['items'])}{least}"
    if schema.get("format") == "path":
        return "path"
    limits = [f"{sign} {schema[key]:,g}" for key, sign in _LIMITS.items() if key in schema]
    return " ".join([_KINDS[schema["type"]], ", ".join(limits)]).strip()


def _default(schema: Schema) -> str:
    value = schema["default"]
    if value is None or value == []:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`{','.join(map(str, value))}`"
    if isinstance(value, int | float) and value >= 10_000:
        # the way people write it, beside the way they read it
        return f"`{value}` ({value:,})"
    return f"`{value}`"


def example_metrics() -> Metrics:
    """Those of a process that serves one model of each task."""
    metrics = Metrics()
    for task in TaskName:
        metrics.add_model(
            task, _INSTANCE, backend="triton", device="cuda:0", dtype="float16", sha256="0" * 64
        )
    metrics.watch_queue(depth=_zero, pixels=_zero, oldest_age_s=_zero)
    return metrics


def _zero(task: TaskName) -> float:
    return 0.0


def metrics_page() -> str:
    """All of docs/metrics.md."""
    families = {one.name: one for one in parse_snapshot(example_metrics().snapshot()).families}
    for gpu in _gpu_families():
        families[gpu.name] = gpu
    ours = [one for name, one in sorted(families.items()) if name.startswith("smserve_")]
    others = [one for name, one in sorted(families.items()) if not name.startswith("smserve_")]
    return "\n".join(
        [
            *_METRICS_INTRODUCTION,
            *_metrics_table(ours),
            "",
            "## Of the Python client library",
            "",
            *_metrics_table(others),
            "",
        ]
    )


_METRICS_INTRODUCTION: Final = (
    _WRITTEN_BY,
    "",
    "# Metrics",
    "",
    "`GET /metrics`, in the text format of Prometheus. With front ends and engines any front end "
    'answers for all processes; the column "processes" says what their values come to. Sums go '
    "on when a process is replaced. Those of the GPU exist where the driver can be asked. What to "
    "do when one of them looks bad: [runbook.md](runbook.md).",
    "",
    "Histograms have `_bucket` with the label `le`, `_sum` and `_count`; counters and histograms "
    "also `_created`.",
    "",
)


def _gpu_families() -> Iterable[Family]:
    name, text, labels = INFO
    yield _gauge(name, text, labels)
    for figure in FIGURES:
        yield _gauge(figure.name, figure.text, ("gpu",))


def _gauge(name: str, text: str, labels: Iterable[str]) -> Family:
    key = (name, tuple((label, "") for label in labels))
    return Family(name, "gauge", text, "", Merge.MAX, {key: 0.0})


def _metrics_table(families: Iterable[Family]) -> Iterable[str]:
    yield "| metric | type | labels | processes | |"
    yield "| --- | --- | --- | --- | --- |"
    for family in families:
        kind = family.kind if family.kind != "unknown" else "untyped"
        shown = f"{family.name}_total" if kind == "counter" else family.name
        cells = (
            f"`{shown}`",
            kind,
            ", ".join(_labels(family)),
            _MERGES[family.merge if kind == "gauge" or family.merge in _ALWAYS else Merge.SUM],
            _sentence(family),
        )
        yield f"| {' | '.join(cells)} |"


_ALWAYS: Final = (Merge.SAME, Merge.EACH)


def _labels(family: Family) -> list[str]:
    """Names in the order of their definition; values where they are few and fixed."""
    values: dict[str, list[str]] = {}
    for _, labels in family.samples:
        for label, value in labels:
            if label != "le":
                values.setdefault(label, []).append(value)
    return [_label(name, list(dict.fromkeys(found))) for name, found in values.items()]


def _label(name: str, values: list[str]) -> str:
    if name in ("stage", "reason", "outcome", "code") or (name == "process" and any(values)):
        return f"`{name}` ({', '.join(values)})"
    return f"`{name}`"


def _sentence(family: Family) -> str:
    bounds = [
        dict(labels)["le"]
        for name, labels in family.samples
        if name.endswith("_bucket") and dict(labels)["le"] != "+Inf"
    ]
    buckets = list(dict.fromkeys(bounds))
    return f"{family.text}; up to {', '.join(buckets)}" if buckets else family.text


def main() -> None:
    """Write both pages."""
    (FOLDER / "settings.md").write_text(settings_page(), encoding="utf-8")
    (FOLDER / "metrics.md").write_text(metrics_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
