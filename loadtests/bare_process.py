"""Starts `loadtests.bare_engine`; apart from it, because that program imports torch."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.own_server import ROOT
from loadtests.workloads import Workload


def measure(workload: Workload, batch: int, budget_s: float) -> dict[str, float]:
    """Images per second of the bare engine, measured in a process of its own.

    Returns:
        `images_per_s` and `seconds` of one batch.

    Raises:
        RuntimeError: the process failed; the message holds its last lines.
    """
    with TemporaryDirectory(prefix="smserve-bare-") as folder:
        for number, picture in enumerate(workload.pictures):
            (Path(folder) / f"{number:04}.jpg").write_bytes(picture)
        command = [sys.executable, "-m", "loadtests.bare_engine"]
        command += ["--model", str(workload.model_file), "--pictures", folder]
        command += ["--batch", str(batch), "--budget-s", str(budget_s)]
        if "threshold=0" in workload.query:
            command.append("--random-weights")
        done = subprocess.run(  # noqa: S603 - our own program
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"bare engine: {done.stderr[-1000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
