"""The load test judges rightly, and runs with a server of its own."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("psutil", reason="the load test reads the server's memory")

from loadtests.mixed_load import Hit, Memory, verdicts
from tests.service.processes import ROOT

GOOD = Hit("good/classify", 200, 0.1)


def memory(*after_rounds: float) -> Memory:
    return Memory(before=100, after_rounds=after_rounds, peak=max(after_rounds), warm_up=2)


def test_growth_counts_after_the_warm_up() -> None:
    flat = memory(300, 600, 700, 720, 710, 705, 715, 700)
    assert flat.growth < 20
    assert abs(flat.slope) < 5
    growing = memory(300, 600, 700, 740, 780, 820, 860, 900)
    assert growing.growth == 160
    assert growing.slope == pytest.approx(40)
    assert verdicts([GOOD], flat, 100) == []
    assert "grew by 160.0 MiB" in verdicts([GOOD], growing, 100)[0]


@pytest.mark.parametrize(
    ("hit", "complaint"),
    [
        (Hit("good/detect", 0, 1.0, "ReadError"), "without an answer"),
        (Hit("good/detect", 500, 1.0), "server errors"),
        (Hit("bad picture", 200, 1.0), "answered with 200"),
    ],
)
def test_what_went_wrong_is_told(hit: Hit, complaint: str) -> None:
    (line,) = verdicts([GOOD, hit], None, 100)
    assert complaint in line


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "status"), [("500", 0), ("-1000", 1)])
def test_without_an_address_it_starts_its_own_server(limit: str, status: int) -> None:
    options = ["--rounds", "3", "--requests", "20", "--concurrency", "10"]
    environment = os.environ | {"SMSERVE_BACKEND": "stub"}  # noqa: TID251
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "loadtests.mixed_load", *options, "--max-growth-mib", limit],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("FAILED: memory grew" in done.stdout) is bool(status)
