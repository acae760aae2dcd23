"""Locust against the real service: how much users get done, and what it is like below that.

python -m loadtests.locust_levels --out loadtests/results/locust-cpu.json
python -m loadtests.locust_levels --out loadtests/results/locust-h100.json --users 64 --processes 4

First `--users` people without think time (closed loop), then arrivals at `--share` of the rate
that these reached, whatever the answers do (open loop). A server of its own with the demo models,
on the same cores as Locust. Other work on the machine changes every figure: the load average
before each part is written down with them.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import Row, cpu_name, device_name, write_report
from loadtests.long_run import exit_on_sigterm
from loadtests.own_server import smserve_process
from loadtests.run_locust import run_locust
from service.processes.gpus import visible_gpus


class RunFailedError(RuntimeError):
    """Locust reported nothing, or errors: the figures would say nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Both loops, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=60, help="of each part")
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--processes", type=int, default=1, help="of Locust")
    parser.add_argument("--out", type=Path, help="result file")
    parsed = parser.parse_args(arguments)
    exit_on_sigterm()
    rows: list[Row] = []
    explanations: dict[str, Any] = {}
    with smserve_process() as server, TemporaryDirectory() as folder:

        def measure(case: str, *options: str) -> dict[str, Any]:
            rows.append(Row(case, "load average before", "processes", round(os.getloadavg()[0], 2)))
            usual = ["--run-time", f"{parsed.seconds}s", "--only-summary", "--max-error-ratio", "0"]
            if parsed.processes > 1:
                usual += ["--processes", str(parsed.processes)]
            done = run_locust(server.url, Path(folder), [*usual, *options])
            if done.status or not done.report:
                raise RunFailedError(f"{case}: exit status {done.status}")
            rows.extend(report_rows(case, done.report))
            explanations[case] = done.report["explanation"]
            return done.report

        users = str(parsed.users)
        closed = measure(
            f"closed-{users}-users", "--users", users, "--spawn-rate", users, "--think-s", "0"
        )
        rate = round(parsed.share * closed["rate"], 2)
        measure(f"open-{parsed.share:g}-of-closed", "--rate", str(rate))
    if parsed.out:
        # a processor is named with the cores that server and Locust shared
        device = device_name() if visible_gpus() else cpu_name()
        write_report(parsed.out, "locust", rows, device, explanations=explanations)
    return 0


def report_rows(case: str, report: dict[str, Any]) -> Iterator[Row]:
    """The figures of one run of Locust."""
    yield Row(case, "rate", "right answers/s", round(report["rate"], 3))
    yield Row(case, "throughput", "images/s", round(report["images_per_s"], 3))
    if report["offered_rate"]:
        yield Row(case, "arrivals", "requests/s", round(report["offered_rate"], 3))
        for name, ms in report["late_ms"].items():
            yield Row(case, f"sent late {name}", "ms", ms)
    for task, figures in report["tasks"].items():
        for name in ("ok", "mistakes", "refused", "failed"):
            yield Row(case, f"{task} {name}", "requests", figures[name])
        for name, ms in figures["ms"].items():
            yield Row(case, f"{task} latency {name}", "ms", ms)
    yield Row(case, "device busy", "share", report["explanation"]["device_busy"])
    for task, times in report["explanation"]["tasks"].items():
        for stage, share in times["share"].items():
            yield Row(case, f"{task} time in {stage}", "share", share)
    yield Row(case, "locust cpu", "us/request", round(report["cpu_us_per_request"], 1))


if __name__ == "__main__":
    sys.exit(main())
