"""Signals, exit codes and connections of the real process."""

import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import httpx
import orjson
import pytest

from tests.service.pictures import jpeg
from tests.service.processes import ServiceProcess, service_process

Serve = Callable[..., AbstractContextManager[ServiceProcess]]


@pytest.fixture(params=["0", "2"], ids=["alone", "fronts"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """`service_process`, with everything in one process and with front ends apart."""
    return partial(service_process, frontends=request.param)


def post(service: ServiceProcess, content: bytes = b"", path: str = "/classify") -> httpx.Response:
    return httpx.post(f"{service.url}{path}", content=content or jpeg(), timeout=30)


def samples(service: ServiceProcess) -> dict[str, float]:
    """By name and labels, as they are written."""
    lines = httpx.get(f"{service.url}/metrics", timeout=30).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def wait_for(service: ServiceProcess, name: str, number: int) -> None:
    """Until a sample has this value."""
    deadline = time.monotonic() + 30
    while (found := samples(service)).get(name) != number:
        done = {name: own for name, own in found.items() if own and "requests_total" in name}
        assert time.monotonic() < deadline, f"never saw {name} at {number}; done: {done}"
        time.sleep(0.01)


def wait_for_inflight(service: ServiceProcess, number: int) -> None:
    wait_for(service, 'smserve_inflight_requests{task="classify"}', number)


def wait_until_closing(service: ServiceProcess) -> None:
    """Until a signal has come in: it is not yet there when it has been sent."""
    deadline = time.monotonic() + 30
    while httpx.get(f"{service.url}/readyz", timeout=30).status_code != 503:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sigterm_answers_what_is_in_flight_and_exits_0(serve: Serve) -> None:
    with (
        serve(stub__batch_ms="1500") as service,
        ThreadPoolExecutor(5) as clients,
    ):
        posts = [clients.submit(post, service) for _ in range(5)]
        wait_for_inflight(service, 5)
        service.process.send_signal(signal.SIGTERM)
        wait_until_closing(service)
        assert httpx.get(f"{service.url}/livez").status_code == 200, "draining is not dead"
        late = post(service)
        assert late.status_code == 503
        assert late.headers["connection"] == "close"
        assert [future.result().status_code for future in posts] == [200] * 5
        assert service.wait() == 0


def test_during_the_grace_time_new_work_is_still_accepted(serve: Serve) -> None:
    with serve(shutdown__grace_s="2") as service:
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        wait_until_closing(service)
        assert post(service).status_code == 200
        assert service.wait() == 0
        assert time.monotonic() - started > 1.9


def test_sigint_skips_the_grace_time(serve: Serve) -> None:
    with serve(shutdown__grace_s="30") as service:
        service.process.send_signal(signal.SIGINT)
        assert service.wait(25) == 0


def test_a_second_sigterm_ends_at_once(serve: Serve) -> None:
    with (
        serve(stub__batch_ms="20000") as service,
        ThreadPoolExecutor(1) as clients,
    ):
        lost = clients.submit(post, service)
        wait_for_inflight(service, 1)
        service.process.send_signal(signal.SIGTERM)
        wait_until_closing(service)
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGTERM)
        # long before the answer
        assert service.wait(15) == 128 + signal.SIGTERM
        # a front end may outlive its engine for long enough to say that it is gone
        broken = isinstance(lost.exception(), httpx.TransportError)
        assert broken or lost.result().status_code == 503


def test_sigterm_before_the_start_is_not_lost(tmp_path: Path) -> None:
    # nobody is told of it by the system when this is the first process of a container
    settings = tmp_path / "settings.yaml"
    os.mkfifo(settings)
    with (
        service_process(is_awaited=False, config=str(settings)) as service,
        settings.open("w"),  # waits until the service reads it, and makes it wait
    ):
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 128 + signal.SIGTERM


def test_a_drain_that_takes_too_long_answers_503(serve: Serve) -> None:
    with (
        serve(stub__batch_ms="10000", shutdown__drain_timeout_s="0.5") as service,
        ThreadPoolExecutor(1) as clients,
    ):
        late = clients.submit(post, service)
        wait_for_inflight(service, 1)
        service.process.send_signal(signal.SIGTERM)
        assert late.result().status_code == 503
        assert service.wait() == 0


def test_a_crash_of_the_device_answers_and_exits_with_an_error(serve: Serve) -> None:
    with (
        serve(
            stub__crash_after_batches="1", stub__batch_ms="100", processes__max_restarts="0"
        ) as service,
        ThreadPoolExecutor(4) as clients,
    ):
        # the warm-up of each model counts its own batches
        posts = [clients.submit(post, service) for _ in range(4)]
        assert {future.result().status_code for future in posts} == {503}
        assert service.wait() == 1
        assert "the device thread died" in service.log()


def test_an_unusable_model_ends_the_process_with_an_error(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"junk")
    with serve(
        is_awaited=False, backend="torch", demo_models="false", models_dir=str(tmp_path)
    ) as service:
        assert service.wait(60) == 1
        assert "broken.safetensors" in service.log()


def test_a_taken_port_ends_the_process_with_an_error(serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with serve(is_awaited=False, port=port) as service:
            assert service.wait(30) not in (0, None)


def test_a_client_that_closes_its_connection_frees_its_place(serve: Serve) -> None:
    with serve(stub__batch_ms="2000", batch__max_images="1") as service:
        host, port = service.url.removeprefix("http://").split(":")
        content = jpeg()
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        sockets = [socket.create_connection((host, int(port))) for _ in range(4)]
        for one in sockets:
            one.sendall(head.encode() + content)
        # one computes, one is prepared
        wait_for(service, 'smserve_queue_depth{task="classify"}', 2)
        for one in sockets:
            one.close()
        wait_for_inflight(service, 0)
        # two of them at once; the one that was prepared when the device gets to it
        wait_for(service, 'smserve_dropped_total{reason="client_gone"}', 3)


def test_log_lines_are_json_with_the_request_id_and_say_where_to_go(serve: Serve) -> None:
    with serve() as service:
        headers = {"X-Request-ID": "my-id"}
        httpx.post(f"{service.url}/classify", content=jpeg(), headers=headers)
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
        lines = [orjson.loads(line) for line in service.log().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "my-id"]
    assert (line["route"], line["status"], line["images"]) == ("/classify", 200, 1)
    assert set(line["stages_ms"]) == {
        "read",
        "decode",
        "queue",
        "infer",
        "postprocess",
        "encode",
    }
    assert service.url in [line.get("url") for line in lines if line["message"] == "listening"]
