"""Runs of `smserve evaluate` in this process, and the shapes of their pictures."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from service.cli import console
from service.cli.app import app

NAMES = ("cat", "dog", "bird")
SIZES = ((48, 64), (64, 48), (48, 64), (40, 40))


def smserve(*args: object) -> Result:
    # consoles remember the streams of the run before
    console._console.cache_clear()
    return CliRunner().invoke(app, [str(arg) for arg in args])


def evaluate(task: str, data: Path, *args: object) -> dict[str, Any]:
    """The JSON of a run that succeeds."""
    result = smserve(
        "evaluate", task, "--data", data, "--json", "out.json", "--device", "cpu", *args
    )
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(Path("out.json").read_text())
    return found
