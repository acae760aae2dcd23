"""Result files: what was measured, on which device, with which versions and command."""

import json
import os
import platform
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MAX_REASON = 300
PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "timm",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "fastapi",
    "uvicorn",
    "locust",
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
    part = path.with_name(f"{path.name}.part")  # a run that is killed here keeps the last report
    part.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    part.replace(path)


class GrowingReport:
    """A result file that is rewritten after every case: a killed run keeps what it measured.

    Cases that could not be measured are listed with their reason under `failures`.
    """

    def __init__(self, path: Path, benchmark: str, **extra: Any) -> None:
        self.rows: list[Row] = []
        self.failures: dict[str, str] = {}
        self._path, self._benchmark, self._extra = path, benchmark, extra
        self._device = device_name()  # asked once: after a fault the driver may not answer

    def add(self, rows: Iterable[Row]) -> None:
        """Print and write further rows."""
        for row in rows:
            print(f"{row.case:36} {row.metric:40} {row.value:12.3f} {row.unit}", flush=True)
            self.rows.append(row)
        self._write()

    def fail(self, case: str, reason: str | Exception) -> None:
        """Print and write that a case has no figures, and why; of an exception, the essence."""
        if isinstance(reason, Exception):
            traceback.print_exception(reason)
            message = " ".join(str(reason).split()) or "no message"
            reason = f"{type(reason).__name__}: {message}"[:MAX_REASON]
        print(f"{case:36} {reason}", flush=True)
        self.failures[case] = reason
        self._write()

    def _write(self) -> None:
        extra = {**self._extra, "failures": self.failures}
        write_report(self._path, self._benchmark, self.rows, self._device, **extra)


def read_rows(path: Path, device: str | None = None) -> list[Row]:
    """The rows of a result file.

    Args:
        device: where other figures come from that these will be compared with; None: anywhere.

    Raises:
        ValueError: measured on another device than that.
    """
    report = json.loads(path.read_text(encoding="utf-8"))
    if device is not None and report["device"] != device:
        raise ValueError(f"{path}: measured on {report['device']!r}, to compare with {device!r}")
    return [Row(**row) for row in report["rows"]]


def update_page(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers `<!-- name -->` and `<!-- end of name -->`.

    Raises:
        ValueError: the page does not have both markers, once each and in this order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, *rest = page.read_text(encoding="utf-8").split(begin)
    inside_and_after = rest[0].split(end) if len(rest) == 1 else []
    if len(inside_and_after) != 2 or end in before:
        raise ValueError(f"{page}: needs {begin!r} and then {end!r}, once each")
    page.write_text(f"{before}{begin}\n{text}\n{end}{inside_and_after[1]}", encoding="utf-8")


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
    try:
        done = subprocess.run(  # noqa: S603 - fixed program, arguments from this file
            ["git", *arguments],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # a machine without git: figures are worth more than the commit
        return ""
    return done.stdout.strip()
