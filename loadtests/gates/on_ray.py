"""The service on a Ray cluster of this machine: two replicas on the CPU, behind HAProxy.

python -m loadtests.gates.on_ray --out loadtests/results/gate-ray.json

Answers and refusals are those of the plain service. Clients that repeat 429, 503 and broken
connections lose no request while a replica is killed with SIGKILL, while all replicas are replaced
by new ones, while an update fails, and while the device of a replica hangs. `--short`: without the
updates and the hanging, as CI runs it.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx

from loadtests.gates.gate import GateOptions, GateReport, classify_payloads, run_main
from loadtests.generator.payloads import jpeg_pictures
from loadtests.generator.plan import LoadPlan, Retry
from loadtests.generator.recorder import LoadResult
from loadtests.generator.run import LoadRun
from loadtests.own_server import smserve_process
from loadtests.ray_cluster import RayCluster, wait_for

# a batch of 16 takes 112 ms: 143 images a second and replica
_STUB: Final = {
    "stub__batch_ms": "80",
    "stub__image_ms": "2",
    "batch__max_images": "16",
    "limits__max_body_bytes": "200000",
    "queue__max_images": "32",
    "shutdown__grace_s": "0.5",
    "shutdown__drain_timeout_s": "10",
}
_REPLICAS: Final = ("--replicas", "2", "--cpus", "0.4")
_RATE: Final = 40.0
_RETRY: Final = Retry(attempts=10, backoff_s=0.05, cap_s=5.0)
_TASKS: Final = ("classify", "detect", "segment")
_REPLACED_S: Final = 30.0
_BURST: Final = 300
_HANG_AFTER: Final = 700
_PROBLEM: Final = "application/problem+json"
_NO_FOLDER: Final = "/nonexistent/models"


def run(options: GateOptions) -> GateReport:
    """The gate; about 40 s in its short form, 3 minutes in full."""
    report = GateReport("ray", options)
    with RayCluster(*_REPLICAS, **_STUB) as cluster:
        report.note("start of the cluster", cluster.start_up_s, "s")
        with smserve_process(backend="stub", frontends="0", **_STUB) as plain:
            _same_answers(report, plain.url, cluster.url)
            _same_refusals(report, plain.url, cluster.url)
        _whole_metrics(report, cluster)
        _overload(report, cluster.url, options.pick(1.5, 10))
        _killed(report, cluster, options.pick(4, 20))
        if not options.is_short:
            _updated(report, cluster)
            _not_updated(report, cluster)
        _end(report, cluster)
    if not options.is_short:
        _hanging(report)
    return report


def _pictures() -> list[bytes]:
    return jpeg_pictures(160, 120, number=2, target_bytes=8_000)


def _same_answers(report: GateReport, plain: str, clustered: str) -> None:
    different = asked = 0
    for task in _TASKS:
        for picture in _pictures():
            for query in ("", "?format=hf"):
                answers = [
                    httpx.post(f"{url}/{task}{query}", content=picture, timeout=30)
                    for url in (plain, clustered)
                ]
                asked += 1
                different += len({_essence(answer) for answer in answers}) != 1
    report.note("answers compared with the plain service's", asked, "answers")
    report.equal("answers that differ", different, 0, "answers")


def _essence(answer: httpx.Response) -> str:
    """All but the times."""
    content = answer.json()
    if isinstance(content, dict):
        content.pop("timings", None)
    return f"{answer.status_code} {answer.headers['content-type']} {content}"


def _chunks() -> Any:
    for _ in range(20):
        yield bytes(20_000)


# name, method, path, content
_BAD: Final[Sequence[tuple[str, str, str, Any]]] = (
    ("empty", "POST", "/classify", b""),
    ("no picture", "POST", "/classify", b"certainly no picture"),
    ("half a picture", "POST", "/detect", None),
    ("unknown parameter", "POST", "/classify?topk=3", None),
    ("bad parameter", "POST", "/classify?top_k=0", None),
    ("unknown model", "POST", "/segment?model=other", None),
    ("too large", "POST", "/classify", bytes(300_000)),
    ("too large, in chunks", "POST", "/classify", _chunks),
    ("wrong method", "GET", "/classify", b""),
    ("unknown path", "POST", "/nothing", b""),
    ("deadline", "POST", "/classify?timeout_ms=1", None),
)


def _same_refusals(report: GateReport, plain: str, clustered: str) -> None:
    different = 0
    for name, method, path, content in _BAD:
        picture = _pictures()[0]
        chosen = picture[: len(picture) // 2] if name == "half a picture" else content
        problems = [
            _problem(url, method, path, picture if chosen is None else chosen)
            for url in (plain, clustered)
        ]
        if problems[0] != problems[1] or not 400 <= problems[0][0] < 505:
            different += 1
            report.fail(f"{name}: {problems[0]} from the plain service, {problems[1]} through Ray")
    report.note("kinds of bad input", len(_BAD), "kinds")
    report.equal("refusals that differ", different, 0, "kinds")


def _problem(url: str, method: str, path: str, content: Any) -> tuple[int, str, str]:
    body = content() if callable(content) else content
    answer = httpx.request(method, f"{url}{path}", content=body, timeout=30)
    media_type = answer.headers["content-type"]
    code = answer.json()["code"] if media_type == _PROBLEM else ""
    return answer.status_code, media_type, code


def _whole_metrics(report: GateReport, cluster: RayCluster) -> None:
    """Whichever replica is asked, it tells of both."""
    # the other replica reports every two seconds
    time.sleep(2.5)
    lines = httpx.get(f"{cluster.url}/metrics", timeout=30).text.splitlines()
    processes = [one for one in lines if one.startswith("process_start_time_seconds{")]
    report.equal("replicas in the metrics", len(processes), 2, "replicas")
    wanted = 2 * len(_TASKS) * len(_pictures())
    answered = sum(
        float(one.rsplit(" ", 1)[1])
        for one in lines
        if one.startswith("smserve_requests_total{") and 'code="200"' in one
    )
    report.equal("answers in the metrics", answered, wanted, "requests")


def _overload(report: GateReport, url: str, seconds: float) -> None:
    """200 clients that never wait, for room for 64 pictures; then more at once than Ray lets in."""
    plan = LoadPlan(urls=(url,), duration_s=seconds, connections=200)
    with LoadRun(plan, classify_payloads()) as load:
        result = load.wait()
    report.at_least("overload: answered", result.statuses.get(200, 0), 1, "requests")
    report.at_least("overload: refused with 429", result.statuses.get(429, 0), 1, "requests")
    odd = result.offered - sum(result.statuses.get(status, 0) for status in (200, 429))
    report.equal("overload: answered in another way", odd, 0, "requests")
    if odd:
        report.fail(f"overload: {result.statuses}, {dict(result.errors)}")
    answers = asyncio.run(_burst(url, _BURST))
    refusals = [one for one in answers if one.status_code == 429]
    odd = sum(one.status_code not in (200, 429) for one in answers)
    silent = sum(int(one.headers.get("retry-after", "0")) < 1 for one in refusals)
    ours = sum(one.headers["content-type"] == _PROBLEM for one in refusals)
    report.equal("burst: answered in another way", odd, 0, "requests")
    report.at_least("burst: refused with 429 by the service", ours, 1, "requests")
    report.note("burst: refused with 429 by Ray", len(refusals) - ours, "requests")
    report.equal("burst: 429 without Retry-After", silent, 0, "requests")


async def _burst(url: str, number: int) -> list[httpx.Response]:
    picture = _pictures()[0]
    limits = httpx.Limits(max_connections=number)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        return await asyncio.gather(
            *(client.post(f"{url}/classify", content=picture) for _ in range(number))
        )


def _under_load(
    report: GateReport, name: str, url: str, seconds: float, incident: Callable[[], None]
) -> LoadResult:
    """Judge that no retrying client notices the incident."""
    plan = LoadPlan(
        urls=(url,),
        duration_s=seconds,
        rate=_RATE,
        connections=512,
        keep_records=True,
        retry=_RETRY,
    )
    with LoadRun(plan, classify_payloads()) as load:
        time.sleep(max(0.0, load.started_at + 1 - time.monotonic()))
        incident()
        result = load.wait()
    failed = result.offered - result.statuses.get(200, 0)
    report.note(f"{name}: requests", result.offered, "requests")
    report.equal(f"{name}: requests failed", failed, 0, "requests")
    if failed:
        report.fail(f"{name}: {result.statuses}, {dict(result.errors)}")
    for kind, number in result.retries.items():
        report.note(f"{name}: repeated after {kind}", number, "attempts")
    attempts = max(one.attempts for one in result.records)
    report.at_most(f"{name}: most attempts", attempts, _RETRY.attempts, "attempts")
    slowest = max(one.settled - one.intended for one in result.records)
    report.note(f"{name}: slowest answer", slowest, "s")
    return result


def _killed(report: GateReport, cluster: RayCluster, seconds: float) -> None:
    before = cluster.replica_pids()
    victim = min(before)
    killed_at = time.monotonic()

    def kill() -> None:
        nonlocal killed_at
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()

    result = _under_load(report, "replica killed", cluster.url, seconds, kill)
    waiting = sum(one.sent < killed_at < one.settled for one in result.records)
    report.at_least("replica killed: in flight", waiting, 1, "requests")
    _wait_for_two(report, "replica killed", cluster, without={victim})


def _wait_for_two(report: GateReport, name: str, cluster: RayCluster, without: set[int]) -> None:
    def is_replaced() -> bool:
        pids = cluster.replica_pids()
        return len(pids) == 2 and not pids & without

    if wait_for(is_replaced, _REPLACED_S) is None:
        report.fail(f"{name}: {cluster.replica_pids()} after {_REPLACED_S:.0f} s, not {without}")


def _updated(report: GateReport, cluster: RayCluster) -> None:
    """Replace all replicas by those of another latency."""
    before = cluster.replica_pids()

    def update() -> None:
        started = time.monotonic()
        done = cluster.update(*_REPLICAS, stub__image_ms="4")
        report.note("rolling update: took", time.monotonic() - started, "s")
        report.equal("rolling update: exit status", done.returncode, 0, "")

    _under_load(report, "rolling update", cluster.url, 25, update)
    _wait_for_two(report, "rolling update", cluster, without=before)


def _not_updated(report: GateReport, cluster: RayCluster) -> None:
    """Models that are not there: the old replicas go on."""
    before = cluster.replica_pids()

    def update() -> None:
        done = cluster.update(*_REPLICAS, backend="torch", models_dir=_NO_FOLDER)
        report.equal("broken update: exit status", done.returncode, 1, "")
        if _NO_FOLDER not in done.stderr:
            report.fail(f"broken update: the reason is missing in {done.stderr[-500:]!r}")

    _under_load(report, "broken update", cluster.url, 25, update)
    report.equal("broken update: old replicas", len(before & cluster.replica_pids()), 2, "replicas")


def _hanging(report: GateReport) -> None:
    """A device that never answers again: `/livez` says so, and the replica is replaced."""
    settings = _STUB | {
        "stub__batch_ms": "5",
        "stub__image_ms": "0",
        "stub__hang_after_batches": str(_HANG_AFTER),
        "timeouts__heartbeat_s": "1",
    }
    with RayCluster(*_REPLICAS, **settings) as cluster:
        before = cluster.replica_pids()
        # so that one of them comes first
        address = f"http://127.0.0.1:{cluster.replica_port(min(before))}"
        for _ in range(_HANG_AFTER - 50):
            httpx.post(f"{address}/classify", content=_pictures()[0], timeout=30).raise_for_status()
        _under_load(report, "hanging device", cluster.url, 14, lambda: None)
        gone = before - cluster.replica_pids()
        if gone != {min(before)}:
            report.fail(f"hanging device: {gone} ended, wanted {min(before)} alone")


def _end(report: GateReport, cluster: RayCluster) -> None:
    cluster.terminate()
    status = cluster.wait(60)
    report.equal("exit status after SIGTERM", -1 if status is None else status, 0, "")


if __name__ == "__main__":
    run_main(run, __doc__)
