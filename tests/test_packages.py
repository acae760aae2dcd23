"""Others publish packages named `kernels` and `exporters`; ours must be the imported ones."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["service", "exporters", "model", "kernels", "demo"])
def test_the_imported_package_is_ours(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).resolve().is_relative_to(ROOT)


def test_nothing_of_the_code_is_too_long_to_read() -> None:
    long = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for name in ("service", "exporters", "model", "kernels", "demo", "benchmarks", "loadtests")
        for path in (ROOT / name).rglob("*.py")
    }
    assert {name: lines for name, lines in long.items() if lines > 400} == {}
