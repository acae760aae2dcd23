"""The plan of a whole measurement, without a GPU."""

import importlib.util
import sys
from pathlib import Path

import pytest

from benchmarks.all_gpu import (
    CASE_GROUPS,
    MEASUREMENTS,
    OTHER_CASES,
    PEERS,
    chosen,
    compile_everything,
)
from benchmarks.bench_gpu import select
from benchmarks.bench_rivals import MODELS


def test_every_name_of_the_plan_exists() -> None:
    names = ",".join((*CASE_GROUPS, OTHER_CASES)).split(",")
    assert len(select([], [], names)) == len(names)
    assert set(PEERS) <= set(MODELS)
    assert all(importlib.util.find_spec(step.module) for step in MEASUREMENTS)


def test_steps_are_chosen_by_their_files() -> None:
    assert chosen("") == list(MEASUREMENTS)
    files = [step.file for step in chosen("half-precision,compare-kernels")]
    assert files == [
        "compare-kernels-h100.json",
        "half-precision-h100.json",
        "half-precision-bfloat16-h100.json",
    ]


def test_compiling_gives_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    compile_everything(0.5)
