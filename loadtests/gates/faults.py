"""One bad picture, too little device memory, a dying device: the neighbours' answers stay the same.

python -m loadtests.gates.faults --out loadtests/results/gate-faults.json

The stub makes the faults. Every answer with 200 must equal the answer to the same picture alone,
and the counters must say what happened.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from loadtests.gates.answers import FLOAT32, ask, differences
from loadtests.gates.gate import GateOptions, GateReport, run_main
from loadtests.generator.payloads import Payload, jpeg_pictures, raw_payloads
from loadtests.generator.plan import LoadPlan
from loadtests.generator.recorder import LoadResult
from loadtests.generator.run import run_load
from loadtests.own_server import ServerProcess
from loadtests.scrape import Scrape, scrape

_POISON_WIDTH: Final = 161
_BATCH: Final = 16
_SLOW: Final = {"stub__batch_ms": "30", "batch__max_images": str(_BATCH)}
_RESTARTS: Final = "smserve_process_restarts_total"


def run(options: GateOptions) -> GateReport:
    """All three faults."""
    report = GateReport("faults", options)
    good = _payloads(160)
    alone = _poison(options, report, good)
    _out_of_memory(options, report, good, alone)
    if options.frontends:
        _device_crash(options, report, good, alone)
    return report


def _payloads(width: int, number: int = 12) -> list[Payload]:
    pictures = jpeg_pictures(width, 120, number=number, target_bytes=8_000)
    return [one for task in ("classify", "detect") for one in raw_payloads(f"/{task}", pictures)]


def _load(server: ServerProcess, payloads: Sequence[Payload], seconds: float) -> LoadResult:
    plan = LoadPlan(
        urls=(server.url,), duration_s=seconds, connections=40, keep_answers=10_000, timeout_s=20
    )
    return run_load(plan, payloads)


def _compare(report: GateReport, what: str, result: LoadResult, alone: Mapping[int, Any]) -> None:
    """Of the pictures that are in both; others are bad by design."""
    compared, different = 0, 0
    for one in result.answers:
        if one.status != 200 or one.payload not in alone:
            continue
        compared += 1
        found = differences(alone[one.payload], orjson.loads(one.body), FLOAT32)
        if found:
            different += 1
            report.fail(f"{what}: picture {one.payload}: {found[0]}")
    report.at_least(f"{what}: answers compared", compared, 20, "answers")
    report.equal(f"{what}: answers that differ", different, 0, "answers")
    report.equal(f"{what}: without an answer", sum(result.errors.values()), 0, "requests")


def _outcome(before: Scrape, after: Scrape, outcome: str) -> float:
    return after.total("smserve_images_total", outcome=outcome) - before.total(
        "smserve_images_total", outcome=outcome
    )


def _poison(options: GateOptions, report: GateReport, good: Sequence[Payload]) -> Mapping[int, Any]:
    """Returns the answers to the good pictures, each of which was alone."""
    payloads = [*good, *_payloads(_POISON_WIDTH, number=1)]
    service = options.service(stub__poison_width=str(_POISON_WIDTH), **_SLOW)
    with service as server:
        alone = {index: ask(server.url, payload) for index, payload in enumerate(good)}
        before = scrape(server.url)
        result = _load(server, payloads, options.pick(0.7, 10))
        after = scrape(server.url)
    _compare(report, "poison", result, alone)
    failed = sum(one.status == 500 for one in result.answers)
    wrong = [one for one in result.answers if (one.status == 500) != (one.payload not in alone)]
    report.at_least("poison: failed", failed, 1, "requests")
    report.equal("poison: wrong ones failed", len(wrong), 0, "requests")
    report.equal("poison: counted as failed", _outcome(before, after, "failed"), failed, "images")
    ok = result.statuses.get(200, 0)
    report.equal("poison: counted as ok", _outcome(before, after, "ok"), ok, "images")
    return alone


def _out_of_memory(
    options: GateOptions, report: GateReport, good: Sequence[Payload], alone: Mapping[int, Any]
) -> None:
    with options.service(stub__memory_images="4", **_SLOW) as server:
        before = scrape(server.url)
        result = _load(server, good, options.pick(0.7, 10))
        after = scrape(server.url)
    _compare(report, "out of memory", result, alone)
    report.equal("out of memory: answers", result.statuses.get(200, 0), result.offered, "requests")
    name = "smserve_device_out_of_memory_total"
    counted = after.total(name) - before.total(name)
    report.at_least("out of memory: batches", counted, 1, "batches")


def _device_crash(
    options: GateOptions, report: GateReport, good: Sequence[Payload], alone: Mapping[int, Any]
) -> None:
    """The engine process dies of it and is replaced, again and again."""
    settings = {"stub__crash_after_batches": "20", "processes__max_restarts": "1000", **_SLOW}
    with options.service(**settings) as server:
        result = _load(server, good, options.pick(2, 20))
        restarts = scrape(server.url).total(_RESTARTS)
    _compare(report, "device crash", result, alone)
    odd = [status for status in result.statuses if status not in (200, 429, 503)]
    report.equal("device crash: other answers", len(odd), 0, "kinds")
    report.at_least("device crash: restarts", restarts, 1, "restarts")


if __name__ == "__main__":
    run_main(run, __doc__)
