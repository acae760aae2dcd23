"""A picture's answer does not depend on what else the service is doing.

python -m loadtests.gates.exactness --out loadtests/results/gate-exactness.json

The demo models, all three tasks: each picture alone, then at full load, when it shares batches with
others. Answers must agree within the tolerance of docs/numerics.md.
"""

from typing import Final

import httpx
import orjson

from loadtests.gates.answers import FLOAT32, HALF, Tolerance, ask, differences
from loadtests.gates.gate import GateOptions, GateReport, device_of, run_main
from loadtests.generator.payloads import jpeg_pictures, raw_payloads
from loadtests.generator.plan import LoadPlan
from loadtests.generator.run import run_load
from loadtests.own_server import ServerProcess
from loadtests.scrape import mean_between, scrape
from model.config import TaskName

_PICTURES: Final = 4
# (connections, seconds): among some others, and at full load
_LEVELS: Final = ((3, 2.0), (16, 4.0))
_SHORT_LEVELS: Final = ((6, 0.3),)


def run(options: GateOptions) -> GateReport:
    """Always with the demo models: the stub has nothing to round."""
    report = GateReport("exactness", options)
    with options.service(backend="auto") as server:
        report.device = device_of(server)
        tolerance = _tolerance(server)
        for task in TaskName:
            _check_task(options, report, server, task, tolerance)
    return report


def _tolerance(server: ServerProcess) -> Tolerance:
    models = httpx.get(f"{server.url}/models", timeout=30).raise_for_status().json()["models"]
    return FLOAT32 if all(one["dtype"] == "float32" for one in models) else HALF


def _check_task(
    options: GateOptions,
    report: GateReport,
    server: ServerProcess,
    task: TaskName,
    tolerance: Tolerance,
) -> None:
    # of one size: only these share batches
    pictures = jpeg_pictures(96, 64, number=_PICTURES, target_bytes=4_000)
    payloads = raw_payloads(f"/{task}", pictures)
    alone = [ask(server.url, payload) for payload in payloads]
    for connections, seconds in _SHORT_LEVELS if options.is_short else _LEVELS:
        plan = LoadPlan(
            urls=(server.url,),
            duration_s=seconds,
            connections=connections,
            keep_answers=2000,
            timeout_s=120,
        )
        before = scrape(server.url)
        result = run_load(plan, payloads)
        batch = mean_between(before, scrape(server.url), "smserve_batch_size_images", task=task)
        different = 0
        for one in result.answers:
            found = (
                differences(alone[one.payload], orjson.loads(one.body), tolerance)
                if one.status == 200
                else [f"status {one.status}"]
            )
            if found:
                different += 1
                report.fail(f"{task}, {connections} clients, picture {one.payload}: {found[0]}")
        what = f"{task}, {connections} clients"
        report.at_least(f"{what}: answers compared", len(result.answers), connections, "answers")
        report.equal(f"{what}: answers that differ", different, 0, "answers")
        # or else nothing has been compared with a batch
        report.at_least(f"{what}: batch size, mean", batch or 0.0, 1.2, "images")


if __name__ == "__main__":
    run_main(run, __doc__)
