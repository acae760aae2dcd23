"""Locust without its web UI, against a server of its own or a running one.

python -m loadtests.run_locust
python -m loadtests.run_locust --url http://host:8000 --rate 20 --max-p99-ms 2000

Unknown options go to Locust, see `locust -f loadtests/locustfile.py --help`; without any, 8 users
send for 30 s and the run fails on a wrong answer. The reports lie in loadtests/reports. The exit
status is Locust's.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.report import ROOT
from loadtests.long_run import exit_on_sigterm
from loadtests.own_server import OwnServer, own_server

_LOCUSTFILE: Final = ROOT / "loadtests/locustfile.py"
_REPORTS: Final = ROOT / "loadtests/reports"
_USUAL: Final = ("--users", "8", "--spawn-rate", "8", "--run-time", "30s", "--only-summary")


@dataclass(frozen=True, slots=True)
class LocustRun:
    """What is left of a run.

    Attributes:
        report: of `loadtests.locust_users.judge`; empty when the run did not get that far.
    """

    status: int
    report: dict[str, Any]


def run_locust(
    url: str, reports: Path, options: Sequence[str], *, before: Sequence[str] = ()
) -> LocustRun:
    """Run Locust in a process of its own, and wait for its end.

    Args:
        reports: folder of its reports, which are called `locust`.
        options: of Locust and of the locustfile.
        before: the command that Locust's is an argument of, such as `taskset`.
    """
    reports.mkdir(parents=True, exist_ok=True)
    prefix = reports / "locust"
    path = prefix.with_suffix(".json")
    path.unlink(missing_ok=True)
    command = [*before, sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless"]
    command += ["--host", url, "--html", f"{prefix}.html", "--csv", str(prefix), *options]
    done = subprocess.run(command, check=False)  # noqa: S603 - our own program
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return LocustRun(done.returncode, report)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="of a running server; default: start one")
    parser.add_argument("--reports", type=Path, default=_REPORTS)
    parsed, others = parser.parse_known_args(arguments)
    exit_on_sigterm()
    running = nullcontext(OwnServer(parsed.url, 0)) if parsed.url else own_server()
    with running as server:
        # what comes later wins
        done = run_locust(server.url, parsed.reports, [*_USUAL, *others])
    print(f"reports: {parsed.reports}")
    return done.status


if __name__ == "__main__":
    sys.exit(main())
