"""`kill -9` of a process under load leaves nobody waiting.

python -m loadtests.gates.crash --frontends 2 --out loadtests/results/gate-crash.json

The engine is killed again and again: every request that waits is answered within two seconds
(503 counts), the service is ready again, the restart is counted. A front end is killed: its own
connections break within two seconds, other requests go on. In one process: the clients' connections
break, and the exit status is not 0; the crash of the device thread is answered with 503.
"""

import os
import signal
import time
from typing import Final

from loadtests.gates.gate import (
    ENGINE,
    FRONT,
    GateOptions,
    GateReport,
    classify_payloads,
    has_front_ends,
    run_main,
)
from loadtests.generator.plan import LoadPlan
from loadtests.generator.processes import pids_by_title
from loadtests.generator.recorder import LoadResult
from loadtests.generator.run import LoadRun
from loadtests.own_server import ServerProcess
from loadtests.scrape import scrape

_ANSWER_S: Final = 2.0
_READY_S: Final = 60.0
_STUB: Final = {
    "stub__batch_ms": "100",
    "batch__max_images": "8",
    "processes__max_restarts": "1000",
}
_BROKEN: Final = frozenset({"reset", "closed", "refused"})
_RESTARTS: Final = "smserve_process_restarts_total"


def run(options: GateOptions) -> GateReport:
    """In the form that the options choose."""
    report = GateReport("crash", options)
    if not options.frontends:
        _one_process_killed(options, report)
        _device_thread_dies(options, report)
        return report
    with options.service(**_STUB) as server:
        if not has_front_ends(server):
            report.fail("the service has no process titles: front ends had no effect")
            return report
        repetitions = int(options.pick(2, 50))
        waiting = sum(
            _engine_killed(server, report, f"engine killed, {number}")
            for number in range(1, repetitions + 1)
        )
        report.at_least("engine killed: waiting, all together", waiting, repetitions, "requests")
        _front_end_killed(server, report)
    return report


def _load(server: ServerProcess, duration_s: float, rate: float = 60.0) -> LoadRun:
    plan = LoadPlan(
        urls=(server.url,),
        duration_s=duration_s,
        rate=rate,
        connections=512,
        keep_records=True,
        timeout_s=20,
    )
    return LoadRun(plan, classify_payloads())


def _kill_midway(load: LoadRun, pid: int, after_s: float = 0.5) -> float:
    """When it was."""
    time.sleep(max(0.0, load.started_at + after_s - time.monotonic()))
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def _judge_answers(report: GateReport, what: str, result: LoadResult, killed_at: float) -> int:
    """Nobody who waited at that moment waits longer than allowed; nobody at all hangs.

    Returns:
        how many waited; on a busy machine the generator may be late, and it is nobody.
    """
    waiting = [one for one in result.records if one.sent <= killed_at < one.settled]
    longest = max((one.settled - killed_at for one in waiting), default=0.0)
    report.note(f"{what}: waiting at that moment", len(waiting), "requests")
    report.at_most(f"{what}: longest wait after it", longest, _ANSWER_S, "s")
    report.equal(f"{what}: hung", result.errors["timeout"], 0, "requests")
    return len(waiting)


def _one_process_killed(options: GateOptions, report: GateReport) -> None:
    with options.service(**_STUB) as server, _load(server, 1.5) as load:
        killed_at = _kill_midway(load, server.pid)
        status = server.wait(_ANSWER_S)
        result = load.wait()
    if status in (0, None):
        report.fail(f"exit status {status} after kill -9")
    waiting = _judge_answers(report, "process killed", result, killed_at)
    report.at_least("process killed: waiting", waiting, 1, "requests")


def _device_thread_dies(options: GateOptions, report: GateReport) -> None:
    if options.backend != "stub":
        return
    service = options.service(stub__crash_after_batches="5", **_STUB)
    with service as server, _load(server, 1.5) as load:
        status = server.wait(_READY_S)
        died_at = time.monotonic()
        result = load.wait()
    if status in (0, None):
        report.fail(f"exit status {status} after the device's crash, wanted another one")
    report.at_least("device crash: answered with 503", result.statuses.get(503, 0), 1, "requests")
    report.equal("device crash: hung", result.errors["timeout"], 0, "requests")
    late = [one for one in result.records if one.sent < died_at and one.settled > died_at + 2]
    report.equal("device crash: answered late", len(late), 0, "requests")


def _engine_killed(server: ServerProcess, report: GateReport, what: str) -> int:
    """Returns how many waited for it."""
    before = scrape(server.url)
    with _load(server, 1.5) as load:
        killed_at = _kill_midway(load, pids_by_title(server.pid)[ENGINE])
        result = load.wait()
    waiting = _judge_answers(report, what, result, killed_at)
    others = [one for one in result.records if one.kind or one.status not in (200, 429, 503)]
    report.equal(f"{what}: other answers", len(others), 0, "requests")
    report.at_most(
        f"{what}: ready again, since the end of the load", _wait_until_ready(server), _READY_S, "s"
    )
    restarts = scrape(server.url).total(_RESTARTS) - before.total(_RESTARTS)
    report.equal(f"{what}: restarts counted", restarts, 1, "restarts")
    return waiting


def _front_end_killed(server: ServerProcess, report: GateReport) -> None:
    before = scrape(server.url)
    with _load(server, 2.5) as load:
        killed_at = _kill_midway(load, pids_by_title(server.pid)[FRONT])
        result = load.wait()
    waiting = _judge_answers(report, "front end killed", result, killed_at)
    report.at_least("front end killed: waiting", waiting, 1, "requests")
    broken = [one for one in result.records if one.kind in _BROKEN]
    at_once = [one for one in broken if one.sent <= killed_at]
    # a connection that was in the dead process's backlog breaks as well
    soon = [one for one in broken if killed_at < one.sent <= killed_at + 0.5]
    report.at_least("front end killed: its connections", len(at_once), 1, "requests")
    report.equal(
        "front end killed: later failures", len(broken) - len(at_once) - len(soon), 0, "requests"
    )
    report.at_least("front end killed: others went on", result.statuses.get(200, 0), 60, "requests")
    report.at_most(
        "front end killed: ready again, since the end of the load",
        _wait_until_ready(server),
        _READY_S,
        "s",
    )
    restarts = scrape(server.url).total(_RESTARTS) - before.total(_RESTARTS)
    report.equal("front end killed: restarts counted", restarts, 1, "restarts")


def _wait_until_ready(server: ServerProcess) -> float:
    """Seconds; all processes are back, under other ids, and the service says that it is ready."""
    started = time.monotonic()
    while time.monotonic() < started + _READY_S:
        titles = pids_by_title(server.pid)
        if ENGINE in titles and FRONT in titles and server.is_ready():
            break
        time.sleep(0.05)
    return time.monotonic() - started


if __name__ == "__main__":
    run_main(run, __doc__)
