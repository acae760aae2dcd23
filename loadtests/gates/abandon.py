"""What nobody waits for any more is not computed, and leaves nothing behind.

python -m loadtests.gates.abandon --out loadtests/results/gate-abandon.json

More requests arrive than a slow stub computes; half of the clients close their connection while
they wait. Images of those must not reach the device, apart from the batch that runs at that
moment. Afterwards nothing is in flight, nothing waits, no file is open, and all places are free
again.
"""

import time
from typing import Final

from loadtests.gates.gate import GateOptions, GateReport, classify_payloads, run_main
from loadtests.generator.plan import LoadPlan
from loadtests.generator.processes import sample_processes
from loadtests.generator.recorder import LoadResult
from loadtests.generator.run import run_load
from loadtests.own_server import ServerProcess
from loadtests.scrape import Scrape, scrape

_SLOTS: Final = 200
_RATE: Final = 150.0
_WITHIN_S: Final = 0.3
# of the abandoned ones: those in the batch that runs, and the first ones, which hardly wait
_COMPUTED: Final = 0.25
_SPARE_SLOTS: Final = 8
_SPARE_FILES: Final = 3
_STUB: Final = {
    "stub__batch_ms": "200",
    "batch__max_images": "16",
    "queue__max_images": str(_SLOTS),
}


def run(options: GateOptions) -> GateReport:
    """The load, what was computed of it, what is left of it."""
    report = GateReport("abandon", options)
    with options.service(**_STUB) as server:
        run_load(_plan(server, duration_s=0.5, rate=10), classify_payloads())
        time.sleep(0.3)
        files, before = _open_files(server), scrape(server.url)
        plan = _plan(server, duration_s=options.pick(2, 20), share=0.5)
        result = run_load(plan, classify_payloads())
        after = _wait_until_idle(server)
        _judge_work(report, result, before, after)
        _judge_leftovers(report, server, after, files)
        _judge_slots(report, server)
    return report


def _plan(
    server: ServerProcess, *, duration_s: float, rate: float = _RATE, share: float = 0.0
) -> LoadPlan:
    return LoadPlan(
        urls=(server.url,),
        duration_s=duration_s,
        rate=rate,
        connections=1024,
        abandon_share=share,
        abandon_within_s=_WITHIN_S,
    )


def _judge_work(report: GateReport, result: LoadResult, before: Scrape, after: Scrape) -> None:
    def grown(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    abandoned = result.errors["abandoned"]
    answered = result.statuses.get(200, 0)
    report.at_least("abandoned", abandoned, 0.3 * result.offered, "requests")
    computed = grown("smserve_batch_size_images_sum")
    report.at_least("computed", computed, answered, "images")
    report.note("answered", answered, "requests")
    in_vain = (computed - answered) / max(1, abandoned)
    report.at_most("computed in vain / abandoned", in_vain, _COMPUTED, "ratio")
    per_image = grown("smserve_pixels_total") / max(1.0, computed)
    report.equal("pixels of a computed image", per_image, 224 * 224, "pixels")
    dropped = grown("smserve_dropped_total", reason="client_gone") / max(1, abandoned)
    report.at_least("dropped while they waited / abandoned", dropped, 0.5, "ratio")
    failed = sum(n for status, n in result.statuses.items() if status not in (200, 429))
    report.equal("other answers", failed, 0, "requests")


def _wait_until_idle(server: ServerProcess, limit_s: float = 10.0) -> Scrape:
    deadline = time.monotonic() + limit_s
    while True:
        found = scrape(server.url)
        if not _held(found) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _held(found: Scrape) -> float:
    return found.total("smserve_inflight_requests") + found.total("smserve_queue_depth")


def _judge_leftovers(
    report: GateReport, server: ServerProcess, after: Scrape, files_before: int
) -> None:
    report.equal("in flight", after.total("smserve_inflight_requests"), 0, "requests")
    report.equal("waiting", after.total("smserve_queue_depth"), 0, "images")
    deadline = time.monotonic() + 5
    while _open_files(server) > files_before + _SPARE_FILES and time.monotonic() < deadline:
        time.sleep(0.1)
    report.at_most("files left open", _open_files(server) - files_before, _SPARE_FILES, "files")


def _judge_slots(report: GateReport, server: ServerProcess) -> None:
    """Nearly as many clients at once as there are places: what was lost refuses them."""
    # at the very limit a front end that heard a moment ago that all are taken may be wrong
    clients = _SLOTS - _SPARE_SLOTS
    # every place is asked for again and again
    plan = LoadPlan(urls=(server.url,), duration_s=2.0, connections=clients)
    result = run_load(plan, classify_payloads())
    report.equal("refused with places free", result.statuses.get(429, 0), 0, "requests")
    report.at_least("accepted with places free", result.statuses.get(200, 0), clients, "requests")


def _open_files(server: ServerProcess) -> int:
    return sum(one.fds for one in sample_processes(server.pid))


if __name__ == "__main__":
    run_main(run, __doc__)
