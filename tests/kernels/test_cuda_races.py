"""Accesses of the CUDA kernels to shared memory that nothing orders, found by ThreadSanitizer.

It watches the kernels on a CPU (test_cuda_on_cpu.py) and reports what no barrier orders, whether or
not an answer came out wrong. Instructions that the machine carries out by itself, copies and
products, are carried out at once there: what waits for them too late is for the tools of a GPU to
find (`make sanitize`).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).with_name("test_cuda_on_cpu.py")
COMPILER: Final = shutil.which("g++")
RACE: Final = "WARNING: ThreadSanitizer: data race"
# of each CUDA kernel a case that takes seconds
QUICK: Final = {
    "fusion": "test_fusion[(2, 1, 1, 64)-{}]",
    "product": "test_product[520-192-128-2-1-gelu]",
    "down-sampling": (
        "test_down_sampling[(3, 5, 7, 32)-{'strips': 2, 'rows': 2, 'blocks': 2, 'units': 2}]"
    ),
    "scan": "test_scan[(1, 10, 16, 32)-12-2-5]",
}
# kernels of more randomness in their addresses than an older ThreadSanitizer can do with
UNFIT: Final = "unexpected memory mapping"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
]


def watch(cases: list[str], *options: str) -> tuple[int, str]:
    """Run these cases, or all, under ThreadSanitizer -> exit status and output."""
    assert COMPILER is not None
    found = subprocess.run(  # noqa: S603
        [COMPILER, "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True
    )
    detector = Path(found.stdout.strip())
    if not detector.is_absolute():
        pytest.skip("the compiler has no ThreadSanitizer")
    settings = {
        "LD_PRELOAD": str(detector),
        "CUDA_ON_CPU_OPTIONS": " ".join(["-g", "-fsanitize=thread", *options]),
        # what OpenMP's threads wait for, it does not see
        "OMP_NUM_THREADS": "1",
    }
    pytest_alone = ["-m", "pytest", "-q", "-s", "-p", "no:xdist", "-p", "no:cacheprovider"]
    run = subprocess.run(  # noqa: S603
        [sys.executable, *pytest_alone, *([f"{TESTS}::{case}" for case in cases] or [str(TESTS)])],
        env=os.environ | settings,  # noqa: TID251 - handed on, not read
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if UNFIT in run.stdout:
        pytest.skip("ThreadSanitizer cannot run on this machine")
    return run.returncode, run.stdout


def test_a_barrier_too_few_is_found() -> None:
    """Otherwise the other test says nothing."""
    _, output = watch(list(QUICK.values()), "-DNO_GROUP_BARRIERS")
    assert RACE in output, output


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(list(QUICK.values()), id="quick"),
        pytest.param([], marks=pytest.mark.nightly, id="all"),
    ],
)
def test_every_access_is_ordered(cases: list[str]) -> None:
    status, output = watch(cases)
    assert RACE not in output, output
    assert status == 0, output
