"""The kernels through Triton's real compiler, for the H100, on a machine that has none."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOPPER_SHARED_BYTES = 227 * 1024


# a process of its own: this one runs the kernels in the interpreter
@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "batch"), [("tiny", 128), pytest.param("base", 1, marks=pytest.mark.nightly)]
)
def test_every_kernel_of_the_classifier_fits_the_chip(variant: str, batch: int) -> None:
    command = [sys.executable, "-m", "benchmarks.kernel_resources"]
    done = subprocess.run(  # noqa: S603 - our own program
        [*command, "--variant", variant, "--batch", str(batch)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
    )
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines()]
    names = {line[0] for line in kernels}
    assert {"_scan_kernel", "_gated_fusion_kernel", "_linear_kernel", "_depthwise_kernel"} <= names
    for line in kernels:
        shared = int(line[line.index("shared") - 2])
        assert shared <= HOPPER_SHARED_BYTES, " ".join(line)
        # of a thread; more would go through memory at every use
        assert int(line[line.index("stack") - 2]) <= 256, " ".join(line)
