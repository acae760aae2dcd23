"""One level of load against a running server: throughput, latency, stages, CPU time."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from benchmarks.report import Row
from loadtests.generator.payloads import Payload
from loadtests.generator.plan import LoadPlan
from loadtests.generator.processes import ProcessWatch
from loadtests.generator.recorder import KeptAnswer, LoadResult
from loadtests.generator.run import run_load
from loadtests.generator.tables import load_rows
from loadtests.machine_watch import MachineWatch
from loadtests.scrape import Scrape, mean_between, scrape
from model.config import TaskName
from service.telemetry import STAGES

REST: Final = "rest"
STAGE_METRIC: Final = "stage"
_TIMING: Final = re.compile(r"(\w+);dur=([\d.]+)")
_TIMED_ANSWERS: Final = 2000


class NoAnswerError(RuntimeError):
    """The server refused or failed everything: its figures would say nothing."""


def measure_level(
    case: str, url: str, payloads: Sequence[Payload], plan: LoadPlan, *, pid: int
) -> tuple[LoadResult, list[Row]]:
    """Run a plan and describe it, with the CPU time of the server's processes.

    How busy cores and GPUs are is told of the whole level, its warm-up included.

    Raises:
        NoAnswerError: not one request was answered with 2xx.
    """
    plan = replace(plan, urls=(url,))
    with ProcessWatch(pid) as watch, MachineWatch() as machine:
        result = run_load(plan, payloads)
    if not result.images:
        raise NoAnswerError(f"{case}: {result.statuses}, {dict(result.errors)}")
    rows = load_rows(case, result)
    images = result.requests * payloads[0].images
    for title, seconds in sorted(watch.cpu_s().items()):
        rows.append(Row(case, f"cpu of {title}", "ms/image", round(1e3 * seconds / images, 4)))
    return result, [*rows, *machine.rows(case)]


def measure_own_level(
    case: str, url: str, payloads: Sequence[Payload], plan: LoadPlan, *, pid: int, task: TaskName
) -> tuple[LoadResult, list[Row]]:
    """The same for our service, with the mean time of each stage."""
    before = scrape(url)
    result, rows = measure_level(case, url, payloads, plan, pid=pid)
    return result, [*rows, *stage_rows(case, before, scrape(url), task)]


def stage_rows(case: str, before: Scrape, after: Scrape, task: TaskName) -> list[Row]:
    """Mean milliseconds of the stages between two moments, and what a request took beyond them.

    The rest is meaningful for requests with one image.
    """
    rows, known = [], 0.0
    for stage in STAGES:
        seconds = mean_between(
            before, after, "smserve_stage_duration_seconds", task=task, stage=stage
        )
        if seconds is None:
            continue
        known += seconds
        rows.append(Row(case, f"{STAGE_METRIC} {stage}", "ms", round(1e3 * seconds, 4)))
    whole = mean_between(before, after, "smserve_request_duration_seconds", task=task)
    if whole is not None and rows:
        rest = max(0.0, whole - known)
        rows.append(Row(case, f"{STAGE_METRIC} {REST}", "ms", round(1e3 * rest, 4)))
        batch = mean_between(before, after, "smserve_batch_size_images", task=task)
        rows.append(Row(case, "batch size mean", "images", round(batch or 0.0, 2)))
    return rows


def overhead_rows(case: str, answers: Sequence[KeptAnswer]) -> list[Row]:
    """Median time beyond the computation, in the server and at the client; one client at a time."""
    timings = [
        (one, {name: float(value) for name, value in _TIMING.findall(one.server_timing)})
        for one in answers
        if one.status == 200
    ]
    timed = [(one, stages) for one, stages in timings if {"infer", "total"} <= stages.keys()]
    if not timed:
        return []
    figures = {
        "server total p50": [stages["total"] for _, stages in timed],
        "server infer p50": [stages["infer"] for _, stages in timed],
        "server overhead p50": [stages["total"] - stages["infer"] for _, stages in timed],
        "client overhead p50": [1e3 * one.seconds - stages["infer"] for one, stages in timed],
    }
    return [Row(case, name, "ms", round(statistics.median(v), 3)) for name, v in figures.items()]


def one_client(plan: LoadPlan) -> LoadPlan:
    """The plan for a single client whose answers are looked into."""
    return replace(plan, connections=1, processes=1, rate=None, keep_answers=_TIMED_ANSWERS)
