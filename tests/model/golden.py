"""Access to the committed reference outputs of the published models."""

import functools
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1] / "data" / "golden"


@functools.cache
def module(name: str) -> ModuleType:
    """One of the modules that belong to the reference data: fill, compare, checkpoint."""
    spec = importlib.util.spec_from_file_location(f"golden_{name}", ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def case_names(*, kind: str, task: str = "*") -> list[str]:
    """Names of all cases of a kind, models of one manifest together."""
    names = []
    for path in (ROOT / "cases").glob(f"{task}_*.json"):
        info = json.loads(path.read_text())
        if info["kind"] == kind:
            names.append((str(info["manifest"]), path.stem))
    return [name for _, name in sorted(names)]


def load_case(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(info, arrays) of a case."""
    info, arrays = module("compare").load_case(str(ROOT / "cases" / name))
    return info, arrays


def load_manifest(name: str) -> dict[str, Any]:
    """Key list of a model; `name` as in a case's "manifest"."""
    manifest: dict[str, Any] = json.loads((ROOT / name).read_text())
    return manifest


def thinned(array: np.ndarray, what: str) -> np.ndarray:
    """Apply the slice that a stored array's description gives, such as `x[0, ::32, ::8, ::8]`."""
    if "x[" not in what:
        return array
    text = what.split("x[", 1)[1].split("]", 1)[0]
    index: list[slice | int] = []
    for part in text.split(","):
        bounds = [int(bound) if bound.strip() else None for bound in part.split(":")]
        single = bounds[0] if len(bounds) == 1 else None
        index.append(slice(*bounds) if single is None else single)
    return array[tuple(index)]
