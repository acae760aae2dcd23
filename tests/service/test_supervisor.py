"""Processes that die, hang, or are left alone."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.pictures import jpeg
from tests.service.processes import ServiceProcess, service_process

pytestmark = pytest.mark.slow
Serve = Callable[..., AbstractContextManager[ServiceProcess]]


@pytest.fixture
def serve() -> Serve:
    """`service_process` with two front ends."""
    return partial(service_process, frontends="2")


def children(service: ServiceProcess, title: str) -> list[psutil.Process]:
    """Living processes of the service whose title begins so."""
    found = []
    for child in psutil.Process(service.process.pid).children(recursive=True):
        try:
            if " ".join(child.cmdline()).startswith(title):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def post(service: ServiceProcess) -> int:
    return httpx.post(f"{service.url}/classify", content=jpeg(), timeout=30).status_code


def metric(service: ServiceProcess, name: str, **labels: str) -> float:
    """Value of a sample; the sum over those that have these labels."""
    text = httpx.get(f"{service.url}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def until_ready(service: ServiceProcess, timeout_s: float = 60) -> None:
    """All front ends: each hears of a new engine by itself, and any may take a connection."""
    deadline, in_a_row = time.monotonic() + timeout_s, 0
    while in_a_row < 12:
        is_ready = httpx.get(f"{service.url}/readyz").status_code == 200
        in_a_row = in_a_row + 1 if is_ready else 0
        assert time.monotonic() < deadline, service.log()
        time.sleep(0.01)


def until(service: ServiceProcess, number: int, name: str, **labels: str) -> None:
    """Until the sum of these samples is this."""
    deadline = time.monotonic() + 30
    while metric(service, name, **labels) != number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_inflight(service: ServiceProcess, number: int) -> None:
    until(service, number, "smserve_inflight_requests", task="classify")


def next_engine(service: ServiceProcess, last: psutil.Process | None) -> psutil.Process:
    """The only engine, once it is another than this one."""
    deadline = time.monotonic() + 30
    while not (found := [one for one in children(service, "smserve-engine") if one != last]):
        assert time.monotonic() < deadline, service.log()
        time.sleep(0.01)
    return found[0]


def test_everybody_has_a_name(serve: Serve) -> None:
    with serve() as service:
        titles = psutil.Process(service.process.pid).cmdline()
        assert titles[0].startswith("smserve-supervisor")
        assert len(children(service, "smserve-engine[0]")) == 1
        for index in range(2):
            assert len(children(service, f"smserve-front[{index}]")) == 1
        assert metric(service, "smserve_processes", process="front") == 2
        assert metric(service, "smserve_processes", process="engine") == 1


def test_a_killed_engine_answers_everyone_and_comes_back(serve: Serve) -> None:
    with (
        serve(stub__batch_ms="2500", batch__max_images="1") as service,
        ThreadPoolExecutor(6) as clients,
    ):
        posts = [clients.submit(post, service) for _ in range(6)]
        until_inflight(service, 6)
        (engine,) = children(service, "smserve-engine")
        killed = time.monotonic()
        engine.kill()
        assert [own.result() for own in posts] == [503] * 6
        assert time.monotonic() - killed < 2
        assert httpx.get(f"{service.url}/livez").status_code == 200
        until_ready(service)
        assert post(service) == 200
        restarts = partial(metric, service, "smserve_process_restarts_total")
        assert restarts(process="engine", reason="killed") == 1
        assert restarts() == 1


def test_several_engines_share_the_work_and_replace_each_other(serve: Serve) -> None:
    with (
        serve(processes__engines="2", stub__batch_ms="1500", batch__max_images="1") as service,
        ThreadPoolExecutor(6) as clients,
    ):
        posts = [clients.submit(post, service) for _ in range(6)]
        # each computes one and prepares one: none is still on its way to an engine
        until(service, 2, "smserve_queue_depth", task="classify")
        children(service, "smserve-engine[0]")[0].kill()
        ended = [own.result() for own in posts]
        # both had some, and what the other one has is not touched
        assert set(ended) == {200, 503}
        assert ended.count(200) >= 2
        assert httpx.get(f"{service.url}/readyz").status_code == 200, "one engine is enough"
        assert post(service) == 200


def test_a_hung_device_is_replaced(serve: Serve) -> None:
    with (
        serve(stub__hang_after_batches="1", timeouts__heartbeat_s="1.5") as service,
        ThreadPoolExecutor(3) as clients,
    ):
        assert httpx.get(f"{service.url}/livez").status_code == 200
        posts = [clients.submit(post, service) for _ in range(3)]
        until_inflight(service, 3)
        hung = time.monotonic()
        assert [own.result() for own in posts] == [503] * 3
        # the heartbeat's limit, and two seconds
        assert time.monotonic() - hung < 3.5
        until_ready(service)
        assert metric(service, "smserve_process_restarts_total", reason="silent") == 1


def test_a_killed_front_end_loses_only_its_own_connections(serve: Serve) -> None:
    with (
        serve(stub__batch_ms="1500") as service,
        ThreadPoolExecutor(8) as clients,
    ):
        posts = [clients.submit(post, service) for _ in range(8)]
        until_inflight(service, 8)
        before = metric(service, "smserve_images_total", outcome="ok")
        children(service, "smserve-front[0]")[0].kill()
        ended = [own.exception() or own.result() for own in posts]
        lost = [one for one in ended if isinstance(one, httpx.TransportError)]
        assert len(lost) + ended.count(200) == 8, ended
        until_inflight(service, 0)
        assert list(clients.map(post, [service] * 6)) == [200] * 6
        assert metric(service, "smserve_process_restarts_total", process="front") == 1
        counted = metric(service, "smserve_images_total", outcome="ok")
        assert counted >= before + 6, "what a dead process counted is not forgotten"


def test_a_service_whose_engine_dies_too_often_ends_with_an_error(serve: Serve) -> None:
    with serve(processes__max_restarts="1") as service:
        engine = None
        for _ in range(2):
            engine = next_engine(service, engine)
            until_ready(service)
            engine.kill()
        assert service.wait() == 1
        assert "ended too often" in service.log()


def test_without_the_supervisor_nobody_stays(serve: Serve) -> None:
    with serve() as service:
        everybody = psutil.Process(service.process.pid).children(recursive=True)
        assert len(everybody) >= 3
        os.kill(service.process.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(everybody, timeout=30)
        assert left == []


def test_what_the_engine_never_heard_of_is_free_again(serve: Serve) -> None:
    """Shared memory for two pictures: a lost place would stop the third."""
    size = str(2 * 3 * 64 * 64)
    with serve(frontends="1", processes__picture_bytes=size, stub__batch_ms="50") as service:
        assert [post(service) for _ in range(3)] == [200] * 3
        for _ in range(3):
            children(service, "smserve-engine")[0].kill()
            post(service)
            until_ready(service)
        with ThreadPoolExecutor(6) as clients:
            posts = [clients.submit(post, service) for _ in range(6)]
            assert [own.result() for own in posts] == [200] * 6
