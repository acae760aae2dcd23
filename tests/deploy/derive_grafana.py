"""JSON schemas of what deploy/grafana writes, from the types that Grafana publishes.

mkdir types && cd types && npm init --yes
npm install @grafana/schema@12.1.1 @grafana/grafana-foundation-sdk@0.0.21 \
    typescript@5.9.3 ts-json-schema-generator@2.4.0
python -m tests.deploy.derive_grafana types

Dashboards, panels and their options are those of the image in compose.yaml; the queries of
Prometheus and the names of units are only in the other package. Unknown fields are errors.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "grafana"
_RAW: Final = "@grafana/schema/dist/types/raw"
_SDK: Final = "@grafana/grafana-foundation-sdk/dist"
_PANELS: Final = {"stat": "Stat", "table": "Table", "timeseries": "TimeSeries"}
_NOISE: Final = ("description", "default", "$schema")


def source() -> str:
    """One TypeScript type that has all the others as fields."""
    imports = [
        f'import type {{ Dashboard }} from "{_RAW}/dashboard/x/dashboard_types.gen";',
        f'import type {{ Dataquery }} from "{_SDK}/prometheus/types.gen";',
    ]
    fields = [
        "dashboard: Dashboard;",
        # a mark for the compiler, which no JSON has
        'query: Omit<Dataquery, "_implementsDataqueryVariant">;',
    ]
    for kind, name in _PANELS.items():
        path = f"{_RAW}/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen"
        imports.append(f'import type * as {kind} from "{path}";')
        # numbers in a row have no fields of their own
        custom = "{}" if kind == "stat" else f"{kind}.FieldConfig"
        fields.append(f"{kind}: {{ options: {kind}.Options; custom: {custom} }};")
    return "\n".join([*imports, "export interface All {", *fields, "}", ""])


def without_noise(schema: Any) -> Any:
    """The same without what only explains; fields that have these names stay."""
    if isinstance(schema, list):
        return [without_noise(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: without_noise(own) for name, own in value.items()}
        if key == "properties"
        else without_noise(value)
        for key, value in schema.items()
        if key not in _NOISE
    }


def schemas(folder: Path) -> dict[str, Any]:
    """By name: `dashboard`, `query`, and of each kind of panel its options and fields."""
    (folder / "all.ts").write_text(source(), encoding="utf-8")
    options = {"strict": True, "skipLibCheck": True, "moduleResolution": "node"}
    config = {"compilerOptions": options, "files": ["all.ts"]}
    (folder / "tsconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = ["npx", "ts-json-schema-generator", "--path", "all.ts", "--type", "All"]
    command += ["--tsconfig", "tsconfig.json", "--expose", "none", "--no-top-ref"]
    command += ["--no-type-check"]
    made = subprocess.run(  # noqa: S603 - the program named above
        command, cwd=folder, check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = without_noise(json.loads(made.stdout))["properties"]
    return found


def units(folder: Path) -> list[str]:
    """What `unit` of a field may be."""
    types = folder / "node_modules" / _SDK / "units/types.gen.d.ts"
    found = re.findall(r'^export declare const \w+ = "([^"]*)";', types.read_text(), re.MULTILINE)
    return sorted(set(found))


def main(folder: Path) -> None:
    DATA.mkdir(exist_ok=True)
    for name, content in (("schemas", schemas(folder)), ("units", units(folder))):
        text = json.dumps(content, separators=(",", ":"), sort_keys=True)
        (DATA / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
