"""What starts many processes must start quickly."""

import subprocess
import sys

from benchmarks.report import ROOT

# each of them starts processes of the generator, which import it again
MAINS = (
    "loadtests.generator.__main__",
    "loadtests.bench_http",
    "loadtests.bench_gpus",
    "loadtests.mixed_load",
    "loadtests.gates.abandon",
    "loadtests.gates.crash",
    "loadtests.gates.drain",
    "loadtests.gates.exactness",
    "loadtests.gates.faults",
    "loadtests.gates.overload",
    "loadtests.gates.soak",
)


def test_programs_that_generate_load_start_without_torch() -> None:
    program = f"import sys, {', '.join(MAINS)}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)  # noqa: S603
    assert done.returncode == 0
