"""Result files: what was measured, on which device, with which versions and command."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "fastapi",
    "uvicorn",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        case: for example `classify-tiny-224-b128`.
        metric: for example `throughput`.
        unit: for example `images/s`.
    """

    case: str
    metric: str
    unit: str
    value: float


def write_report(
    path: Path, benchmark: str, rows: Iterable[Row], device: str | None = None, /, **extra: Any
) -> None:
    """Write a result file.

    Args:
        device: where it was measured; None: where torch computes in this process.
        extra: further top-level fields.
    """
    report = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device or device_name(),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": _versions(),
        "command": command_line(),
        **extra,
        "rows": [asdict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def device_name() -> str:
    """The GPU's name when there is one, else the processor's with the number of cores in use."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{_processor()}, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """The processor's name with the number of cores this process may use."""
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores"


def command_line() -> str:
    """The command that is running, in the form a reader would type it."""
    arguments = shlex.join(sys.argv[1:])
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec is not None else Path(sys.argv[0]).name
    return f"{program} {arguments}".strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - fixed program, arguments from this file
        ["git", *arguments],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
