"""JSON schemas of the custom resources in deploy/k8s, from packages that carry their definitions.

mkdir -p wheels && cd wheels
pip download --no-deps --only-binary=:all: --python-version 3.14 \
    cloudcoil-models-keda==2.20.2.1 cloudcoil-models-prometheus-operator==0.93.1.1
pip download --no-deps kserve==0.21.0
python -m tests.deploy.derive_crds wheels

The wheels are read as text: of the pydantic classes only the annotated fields are kept and run, of
KServe's classes only literal dictionaries are read. Unknown fields are errors in the result, as
they are for `kubectl apply --validate=strict`.
"""

import ast
import json
import re
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Final

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "crds"
_NOISE: Final = ("title", "description", "default", "examples")
_KUBERNETES: Final = "x-kubernetes-type"
_HEADER: Final = """
from __future__ import annotations
from typing import Any, Annotated, ClassVar, Literal
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel
class Resource(BaseModel): kind: str
ObjectMeta = dict[str, Any]
"""
_PLAIN: Final = {"str": "string", "bool": "boolean", "int": "integer", "float": "number"}


def from_pydantic(source: str, name: str) -> dict[str, Any]:
    """The schema of a class of generated pydantic models."""
    module = ast.parse(source)
    kept: list[ast.stmt] = list(ast.parse(_HEADER).body)
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            node.body = [one for one in node.body if _is_field(one)] or [ast.Pass()]
            kept.append(node)
    # pydantic looks for a class's annotations in its module
    scope = sys.modules["derived"] = ModuleType("derived")
    names = vars(scope)
    code = compile(ast.unparse(ast.Module(kept, [])), name, "exec")
    exec(code, names)  # noqa: S102 - annotations of a package that the caller has chosen
    names[name].model_rebuild()
    schema: dict[str, Any] = names[name].model_json_schema(by_alias=True)
    return schema


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign | ast.Assign) and "__cloudcoil" not in ast.unparse(node)


def from_openapi_classes(sources: dict[str, str], name: str) -> dict[str, Any]:
    """The schema of a class as OpenAPI Generator writes it; types of Kubernetes are only named."""
    definitions: dict[str, Any] = {}
    _define(sources, name, definitions)
    return {"$ref": f"#/$defs/{name}", "$defs": definitions}


def _define(sources: dict[str, str], name: str, into: dict[str, Any]) -> None:
    source = sources[name]
    into[name] = {}
    types = _dictionary(source, "openapi_types")
    names = _dictionary(source, "attribute_map")
    required = set(re.findall(r"client_side_validation and (\w+) is None", source))
    into[name] |= {
        "type": "object",
        "properties": {names[k]: _type(sources, v, into) for k, v in types.items()},
        "required": sorted(names[one] for one in required),
    }


def _dictionary(source: str, name: str) -> dict[str, str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise ValueError(f"no {name}")


def _type(sources: dict[str, str], text: str, into: dict[str, Any]) -> dict[str, Any]:
    if text in _PLAIN:
        return {"type": _PLAIN[text]}
    if match := re.fullmatch(r"list\[(.*)\]", text):
        return {"type": "array", "items": _type(sources, match[1], into)}
    if match := re.fullmatch(r"dict\(str, (.*)\)", text):
        return {"type": "object", "additionalProperties": _type(sources, match[1], into)}
    if text not in sources:
        return {_KUBERNETES: text}
    if text not in into:
        _define(sources, text, into)
    return {"$ref": f"#/$defs/{text}"}


def strict(schema: Any) -> Any:
    """Without words, and with every field that is not named forbidden."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    own = {k: v for k, v in schema.items() if k not in _NOISE or not isinstance(v, str | list)}
    found: dict[str, Any] = {}
    for key, value in own.items():
        if key in ("properties", "$defs"):
            # here the keys are names, and none of them is noise
            found[key] = {name: strict(one) for name, one in value.items()}
        elif key != "default":
            found[key] = strict(value)
    if "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


def _sources(folder: Path, pattern: str) -> zipfile.ZipFile:
    (path,) = folder.glob(pattern)
    return zipfile.ZipFile(path)


def _kserve_sources(wheel: zipfile.ZipFile) -> dict[str, str]:
    texts = [
        wheel.read(name).decode()
        for name in wheel.namelist()
        if re.fullmatch(r"kserve/models/v1\w+\.py", name)
    ]
    found = [(re.search(r"^class (\w+)\(", text, re.MULTILINE), text) for text in texts]
    return {match[1]: text for match, text in found if match}


def main() -> None:
    folder = Path(sys.argv[1])
    keda = _sources(folder, "cloudcoil_models_keda-2.20.2.1-*.whl")
    operator = _sources(folder, "cloudcoil_models_prometheus_operator-0.93.1.1-*.whl")
    kserve = _kserve_sources(_sources(folder, "kserve-0.21.0-*.whl"))
    models = "cloudcoil/models"
    schemas = {
        "ScaledObject": from_pydantic(
            keda.read(f"{models}/keda/v1alpha1.py").decode(), "ScaledObject"
        ),
        "PodMonitor": from_pydantic(
            operator.read(f"{models}/prometheus_operator/v1.py").decode(), "PodMonitor"
        ),
        "ServingRuntime": from_openapi_classes(kserve, "V1alpha1ServingRuntime"),
        "InferenceService": from_openapi_classes(kserve, "V1beta1InferenceService"),
    }
    DATA.mkdir(exist_ok=True)
    for name, schema in schemas.items():
        text = json.dumps(strict(schema), indent=None, sort_keys=True, separators=(",", ":"))
        (DATA / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
