"""SIGTERM under load loses no request.

python -m loadtests.gates.drain --out loadtests/results/gate-drain.json

One replica, 70 % load, SIGTERM in the middle: every request sent before it is answered with 200,
none later fails in another way than 503 or a closed connection, the exit status is 0 within the
drain limit. Then two replicas behind clients that repeat 429, 503 and broken connections: one is
stopped and started again, and no request fails.
"""

import time
from typing import Final

from loadtests.gates.gate import GateOptions, GateReport, classify_payloads, run_main
from loadtests.generator.plan import LoadPlan, Retry
from loadtests.generator.recorder import LoadResult
from loadtests.generator.run import LoadRun

_BATCH_MS, _IMAGE_MS = 20.0, 5.0
# of the stub with the times above, batches of 16
_CAPACITY: Final = 160.0
_LOAD: Final = 0.7
_DRAIN_S: Final = 10.0
_GRACE_S: Final = 0.5
# what the kernel has accepted for a server that has just closed is nobody's request yet
_LATE_KINDS: Final = frozenset({"refused", "reset", "closed"})
_STUB: Final = {
    "stub__batch_ms": str(_BATCH_MS),
    "stub__image_ms": str(_IMAGE_MS),
    "batch__max_images": "16",
    "shutdown__drain_timeout_s": str(_DRAIN_S),
}


def run(options: GateOptions) -> GateReport:
    """Both halves of the gate."""
    report = GateReport("drain", options)
    _single(options, report)
    _replicas(options, report)
    return report


def _plan(options: GateOptions, *urls: str, retry: Retry) -> LoadPlan:
    return LoadPlan(
        urls=urls,
        duration_s=options.pick(2.5, 60),
        rate=_LOAD * _CAPACITY if options.backend == "stub" else 5.0,
        connections=512,
        keep_records=True,
        retry=retry,
    )


def _single(options: GateOptions, report: GateReport) -> None:
    service = options.service(shutdown__grace_s="0", **_STUB)
    with service as server:
        plan = _plan(options, server.url, retry=Retry())
        with LoadRun(plan, classify_payloads()) as load:
            time.sleep(max(0.0, load.started_at + plan.duration_s / 2 - time.monotonic()))
            stopped_at = time.monotonic()
            server.terminate()
            status = server.wait(_DRAIN_S + 10)
            report.at_most("exit after", time.monotonic() - stopped_at, _DRAIN_S + 5, "s")
            result = load.wait()
    if status != 0:
        report.fail(f"exit status {status} after SIGTERM, wanted 0")
    _judge(report, result, stopped_at)


def _judge(report: GateReport, result: LoadResult, stopped_at: float) -> None:
    before = [one for one in result.records if one.sent < stopped_at]
    late = [one for one in result.records if one.sent >= stopped_at]
    waiting = [one for one in before if one.settled > stopped_at]
    report.at_least("answered before SIGTERM", len(before) - len(waiting), 1, "requests")
    report.at_least("in flight at SIGTERM", len(waiting), 1, "requests")
    lost = [one for one in before if one.status != 200]
    report.equal("accepted requests lost", len(lost), 0, "requests")
    for one in lost[:5]:
        report.fail(f"sent {stopped_at - one.sent:.3f} s before SIGTERM: {one.status} {one.kind}")
    odd = [one for one in late if one.status not in (200, 503) and one.kind not in _LATE_KINDS]
    report.equal("later requests failed in another way", len(odd), 0, "requests")
    report.note("later requests", len(late), "requests")
    report.note("later requests: 503", sum(one.status == 503 for one in late), "requests")


def _replicas(options: GateOptions, report: GateReport) -> None:
    """The load goes on while one of two replicas is replaced."""
    retry = Retry(attempts=10, backoff_s=0.05, cap_s=0.3)
    # the grace time is there for clients that still connect to a replica about to close
    settings = {"shutdown__grace_s": str(_GRACE_S), **_STUB}
    with options.service(**settings) as first, options.service(**settings) as second:
        plan = _plan(options, first.url, second.url, retry=retry)
        with LoadRun(plan, classify_payloads()) as load:
            time.sleep(max(0.0, load.started_at + plan.duration_s / 4 - time.monotonic()))
            first.terminate()
            status = first.wait(_GRACE_S + _DRAIN_S + 10)
            first.start()
            report.note("replica away for", first.wait_until_ready(), "s")
            result = load.wait()
    if status != 0:
        report.fail(f"replica: exit status {status} after SIGTERM, wanted 0")
    failed = result.offered - result.statuses.get(200, 0)
    report.equal("two replicas: requests failed", failed, 0, "requests")
    if failed:
        report.fail(f"two replicas: {result.statuses}, {dict(result.errors)}")
    report.note("two replicas: requests", result.offered, "requests")
    for kind, number in result.retries.items():
        report.note(f"two replicas: repeated after {kind}", number, "attempts")
    report.at_least("two replicas: repeated", sum(result.retries.values()), 1, "attempts")


if __name__ == "__main__":
    run_main(run, __doc__)
