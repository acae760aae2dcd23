"""What rate one process of Locust reaches, and one of the asyncio generator, on one core each.

python -m loadtests.bench_generators --out loadtests/results/generators-cpu.json

Both send small pictures of about 15 kB to the service with the stub backend, in a closed loop
without think time: Locust in all the forms of its users, the generator as the body itself. The
service has the other cores. Where there are few of them it is the service that limits: the
processor time for each request tells what a whole core of the generator could send.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.report import Row, cpu_name, read_rows, write_report
from loadtests.long_run import exit_on_sigterm
from loadtests.own_server import smserve_process
from loadtests.run_locust import run_locust

_CLIENTS: Final = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Both, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=20, help="of each")
    parser.add_argument("--out", type=Path, help="result file")
    parsed = parser.parse_args(arguments)
    exit_on_sigterm()
    own, *others = sorted(os.sched_getaffinity(0))
    rows: list[Row] = []
    with (
        _cores(others or [own]),
        smserve_process(backend="stub") as server,
        TemporaryDirectory() as folder,
    ):
        for case, run in (("locust", locust_rows), ("generator", generator_rows)):
            rows.append(Row(case, "load average before", "processes", round(os.getloadavg()[0], 2)))
            with _cores([own]):
                rows += run(server.url, parsed.seconds, Path(folder))
    for row in rows:
        print(f"{row.case:10} {row.metric:24} {row.value:10.1f} {row.unit}")
    if parsed.out:
        write_report(parsed.out, "generators", rows, cpu_name())
    return 0


@contextmanager
def _cores(numbers: Sequence[int]) -> Iterator[None]:
    """For the processes that are started inside."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, numbers)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def locust_rows(url: str, seconds: int, folder: Path) -> list[Row]:
    """Locust's part: pictures below 50,000 pixels, classification only."""
    users = str(_CLIENTS)
    options = (
        f"--users {users} --spawn-rate {users} --run-time {seconds}s --think-s 0 --only-summary"
    )
    load = "--mix classify=1 --mistakes 0 --max-megapixels 0.05"
    report = run_locust(url, folder, f"{options} {load}".split()).report
    return _rows("locust", report["rate"], report["cpu_us_per_request"])


def generator_rows(url: str, seconds: int, folder: Path) -> list[Row]:
    """The generator's part: a picture of the same size."""
    path = folder / "generator.json"
    command = [sys.executable, "-m", "loadtests.generator", "--url", url, "--out", str(path)]
    command += ["--duration-s", str(seconds), "--connections", str(_CLIENTS)]
    command += ["--pictures", "256x192", "--picture-bytes", "15000"]
    subprocess.run(command, check=True)  # noqa: S603 - our own program
    found = {row.metric: row.value for row in read_rows(path)}
    return _rows("generator", found["throughput"], found["generator cpu"])


def _rows(case: str, rate: float, cpu_us: float) -> list[Row]:
    return [
        Row(case, "rate", "requests/s", round(rate, 1)),
        Row(case, "cpu", "us/request", round(cpu_us, 1)),
        Row(case, "rate of a whole core", "requests/s", round(1e6 / cpu_us, 1)),
    ]


if __name__ == "__main__":
    sys.exit(main())
