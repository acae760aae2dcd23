"""Load on a running server, with the figures at the end.

python -m loadtests.generator --url http://127.0.0.1:8000 --task classify --rate 500 --duration-s 10

With `--rate` requests come at random times, whatever the answers do, and latency counts from when
they should have been sent (open loop). Without it `--connections` clients each wait for their
answer before they send again (closed loop). Exit status 1 when a request got no answer, or an
answer other than 2xx, 429 and 503.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.report import cpu_name, write_report
from loadtests.generator.payloads import (
    Payload,
    jpeg_pictures,
    multipart_payloads,
    raw_payloads,
    sample_pictures,
)
from loadtests.generator.plan import LoadPlan, Retry
from loadtests.generator.recorder import LoadResult
from loadtests.generator.run import LoadRun
from loadtests.generator.tables import load_rows, result_table
from loadtests.limiting_stage import explain
from loadtests.scrape import scrape

_REFUSALS = (429, 503)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", action="append", required=True, help="several: replicas")
    parser.add_argument("--task", default="classify", help="or several, a,b: they take turns")
    parser.add_argument("--query", default="", help="e.g. threshold=0&masks=none")
    parser.add_argument("--duration-s", type=float, default=10.0)
    parser.add_argument("--warm-up-s", type=float, default=1.0)
    parser.add_argument("--rate", type=float, help="requests/s; none: closed loop")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--processes", type=int, default=1, help="of the generator")
    parser.add_argument("--timeout-s", type=float, default=30.0)
    parser.add_argument("--attempts", type=int, default=1, help="more than 1: retries")
    parser.add_argument("--abandon-share", type=float, default=0.0)
    parser.add_argument("--abandon-within-s", type=float, default=0.1)
    parser.add_argument("--pictures", default="500x375", help="WIDTHxHEIGHT, or samples")
    parser.add_argument("--picture-bytes", type=int, default=50_000)
    parser.add_argument("--different", type=int, default=64, help="pictures")
    parser.add_argument("--images-per-request", type=int, default=1)
    parser.add_argument("--explain", action="store_true", help="name the stage that limits")
    parser.add_argument("--out", type=Path, help="result file")
    return parser.parse_args(arguments)


def build_payloads(arguments: argparse.Namespace) -> list[Payload]:
    """Requests of all tasks in turn, with the pictures that were asked for."""
    if arguments.pictures == "samples":
        pictures = sample_pictures()
    else:
        width, height = (int(side) for side in arguments.pictures.split("x"))
        pictures = jpeg_pictures(
            width, height, number=arguments.different, target_bytes=arguments.picture_bytes
        )
    query = f"?{arguments.query}" if arguments.query else ""
    by_task = []
    for task in arguments.task.split(","):
        target = f"/{task}{query}"
        if arguments.images_per_request > 1:
            by_task.append(multipart_payloads(target, pictures, arguments.images_per_request))
        else:
            by_task.append(raw_payloads(target, pictures))
    return [payload for several in zip(*by_task, strict=True) for payload in several]


def build_plan(arguments: argparse.Namespace) -> LoadPlan:
    return LoadPlan(
        urls=tuple(arguments.url),
        duration_s=arguments.duration_s,
        warm_up_s=min(arguments.warm_up_s, arguments.duration_s / 2),
        connections=arguments.connections,
        rate=arguments.rate,
        arrivals=arguments.arrivals,
        timeout_s=arguments.timeout_s,
        retry=Retry(attempts=arguments.attempts),
        abandon_share=arguments.abandon_share,
        abandon_within_s=arguments.abandon_within_s,
        processes=arguments.processes,
    )


def drive(plan: LoadPlan, payloads: Sequence[Payload], console: Console) -> LoadResult:
    """Run with a line that is renewed every second."""
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    totals: Counter[str] = Counter()
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task("starting", total=plan.duration_s)

        def show(elapsed_s: float, counts: Counter[str]) -> None:
            totals.update(counts)
            rate = sum(counts.values()) * plan.processes
            outcomes = ", ".join(f"{name}: {number:,}" for name, number in sorted(totals.items()))
            bar.update(line, completed=elapsed_s, description=f"{rate:,}/s  {outcomes}")

        with LoadRun(plan, payloads, show) as run:
            return run.wait()


def is_clean(result: LoadResult) -> bool:
    """Every request was answered or refused."""
    failures = sum(n for kind, n in result.errors.items() if kind != "abandoned")
    known = {status for status in result.latencies if 200 <= status < 300} | set(_REFUSALS)
    return not failures and set(result.latencies) <= known and bool(len(result.accepted))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one plan."""
    parsed = parse_arguments(arguments)
    console = Console()
    plan, payloads = build_plan(parsed), build_payloads(parsed)
    if parsed.explain:
        since, before = time.monotonic(), scrape(*plan.urls)
    result = drive(plan, payloads, console)
    console.print(result_table(result))
    console.print(
        f"generator: {result.cpu_us_per_request:.0f} us/request, at most "
        f"{1e3 * result.late:.1f} ms late, retries {dict(result.retries)}"
    )
    extra = {}
    if parsed.explain:
        explanation = explain(before, scrape(*plan.urls), time.monotonic() - since)
        console.print("\n".join(explanation.lines()), highlight=False, soft_wrap=True)
        extra = {"explanation": explanation.as_json()}
    if parsed.out:
        case = "-".join([*parsed.task.split(","), parsed.pictures])
        write_report(parsed.out, "load", load_rows(case, result), cpu_name(), **extra)
    return 0 if is_clean(result) else 1


if __name__ == "__main__":
    sys.exit(main())
