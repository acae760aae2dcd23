"""NVIDIA's memory and race checkers over the kernels' small tests.

python -m benchmarks.sanitize --out benchmarks/results/sanitizer-h100.json [--limit-s 540]

Needs `compute-sanitizer`, which comes with the CUDA toolkit. The checks run side by side, since a
checked kernel mostly waits for the checker; each test's kernels are compiled under it, too, unless
the tests ran before. Reports of API calls are left out: `cuda-bindings` asks the driver for
functions that it may lack, and CUDA programs may do that.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import ROOT, GrowingReport, Row

TESTS: Final = "tests/kernels"
SUMMARY: Final = re.compile(r"={9} (?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)")
PASSED: Final = re.compile(r"^(\d+) passed", re.MULTILINE)
SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class Check:
    """Some tests under one of the checkers.

    Attributes:
        tool: of `compute-sanitizer`.
        choice: arguments of pytest.
    """

    name: str
    tool: str
    choice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a checker found.

    Attributes:
        errors: or hazards.
        reason: why it says nothing; empty: it does.
    """

    passed: int
    errors: int
    reason: str


def _files(*names: str) -> tuple[str, ...]:
    return tuple(f"{TESTS}/test_{name}.py" for name in names)


# one small map in which every mask, tail and rest is met
_MODELS: Final = (*_files("inference_kernels"), "-k", "test_no_worse and float16 and 24")
_LABELS: Final = (*_files("label_map"), "-k", "not full_size and not 256 and not many")
_MASKS: Final = (*_files("mask_runs"), "-k", "edges and (37 or 9)")
_BOXES: Final = (
    *_files("nms", "roi_align"),
    "-k",
    "(65 or 5 or oracle or rim or absent) and not 336 and not 1000",
)
_PICTURES: Final = (*_files("resizing"), "-k", "bicubic or bilinear or strides")
_CUDA: Final = (*_files("cuda_kernels"), "-m", "gpu", "-k")
CHECKS: Final = (
    Check("models, Triton", "memcheck", _MODELS),
    Check("models, Triton", "racecheck", _MODELS),
    Check("label maps, Triton", "memcheck", _LABELS),
    Check("label maps, Triton", "racecheck", _LABELS),
    Check("mask runs, Triton", "memcheck", _MASKS),
    Check("mask runs, Triton", "racecheck", _MASKS),
    Check("boxes, Triton", "memcheck", _BOXES),
    Check("boxes, Triton", "racecheck", _BOXES),
    Check("pictures, Triton", "memcheck", _PICTURES),
    Check("pictures, Triton", "racecheck", _PICTURES),
    Check("models, CUDA", "memcheck", (*_CUDA, "not 40001 and not 6272 and not 128")),
    Check("fusion, CUDA", "racecheck", (*_CUDA, "fusion_on and (9 or 13) and not 128")),
    Check("sampling, CUDA", "racecheck", (*_CUDA, "sampling_on and (9 or 48) and not 128")),
    Check("product, CUDA", "racecheck", (*_CUDA, "product_on and (129 or (1000 and gelu))")),
    Check("scan, CUDA", "racecheck", (*_CUDA, "scan_on_the_gpu and (65 or 31 or 13)")),
)


def command_of(check: Check) -> list[str]:
    """The checker with its tests, as a reader would type it but for the interpreter's path."""
    checker = ["compute-sanitizer", "--tool", check.tool]
    checker += ["--report-api-errors", "no"] if check.tool == "memcheck" else []
    return [*checker, sys.executable, "-m", "pytest", "-q", *check.choice]


def outcome_of(output: str, status: int | None) -> Outcome:
    """What the checker's output says.

    Args:
        status: its exit status; None: it was ended.
    """
    summaries = [int(found) for found in SUMMARY.findall(output)]
    passed = PASSED.search(output)
    reason = ""
    if status is None:
        reason = "ended by the time limit"
    elif not summaries:
        reason = "the checker gave no summary"
    elif passed is None or status != 0:
        reason = f"tests failed, exit status {status}"
    return Outcome(int(passed[1]) if passed else 0, sum(summaries), reason)


def run_side_by_side(
    checks: Sequence[Check], limit_s: float
) -> Iterator[tuple[Check, Outcome, str]]:
    """Each check with what it found and printed, in their order."""
    deadline = time.monotonic() + limit_s
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(i) for i in range(len(checks))]
        running = [_start(check, log) for check, log in zip(checks, logs, strict=True)]
        for check, log, process in zip(checks, logs, running, strict=True):
            try:
                status: int | None = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the tests with their checker
                process.wait()
                status = None
            output = log.read_text(errors="replace")
            yield check, outcome_of(output, status), output


def _start(check: Check, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 - fixed programs
            command_of(check),
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit-s", type=float, default=1800.0)
    parser.add_argument("--only", default="", help="beginnings of checks, commas between")
    args = parser.parse_args()
    if shutil.which("compute-sanitizer") is None:
        raise SystemExit("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    checks = [check for check in CHECKS if check.name.startswith(tuple(args.only.split(",")))]
    choices = {f"{check.name}: {check.tool}": " ".join(check.choice) for check in checks}
    report = GrowingReport(args.out, "sanitize", tests=choices)
    is_clean = True
    for check, found, output in run_side_by_side(checks, args.limit_s):
        case = f"{check.name}: {check.tool}"
        if found.reason:
            report.fail(case, found.reason)
        else:
            report.add(
                [
                    Row(case, "tests passed", "tests", found.passed),
                    Row(case, "reported", "errors", found.errors),
                ]
            )
        if found.reason or found.errors:
            is_clean = False
            print("\n".join(output.splitlines()[-SHOWN:]), flush=True)
    raise SystemExit(0 if is_clean else 1)


if __name__ == "__main__":
    main()
