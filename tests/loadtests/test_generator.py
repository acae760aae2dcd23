"""The load generator measures what it claims, and notices what goes wrong."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from loadtests.generator.__main__ import is_clean
from loadtests.generator.client import Client
from loadtests.generator.connection import Answer, Connection
from loadtests.generator.histogram import LatencyHistogram
from loadtests.generator.payloads import (
    Payload,
    jpeg_pictures,
    multipart_payloads,
    raw_payloads,
)
from loadtests.generator.plan import LoadPlan, Retry
from loadtests.generator.processes import sample_processes
from loadtests.generator.recorder import LoadResult
from loadtests.generator.run import run_load, warm_up
from loadtests.generator.tables import load_rows
from model.images import DecodeLimits, decode_rgb
from service.bodies import parse_body
from service.setting_groups import LimitSettings

PAYLOADS = [Payload("/classify", "image/jpeg", b"x" * 100, 1)]


def answer_bytes(status: int = 200, extra: str = "", body: bytes = b"{}") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


@contextmanager
def fake_server(respond: Callable[[int], bytes | None], delay_s: float = 0.0) -> Iterator[str]:
    """Answers request number n with `respond(n)`; None closes the connection."""
    started, stop = threading.Event(), threading.Event()
    port = 0
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(100)
                content = respond(number)
                number += 1
                await asyncio.sleep(delay_s)
                if content is None:
                    break
                writer.write(content)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        nonlocal port
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            started.set()
            while not stop.is_set():  # noqa: ASYNC110 - the flag belongs to another thread
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join()


def plan(url: str, **changes: object) -> LoadPlan:
    base = LoadPlan(urls=(url,), duration_s=0.5, connections=4, timeout_s=2, keep_records=True)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_percentiles_are_within_one_per_cent() -> None:
    seconds = np.random.default_rng(0).lognormal(-4, 1, 20_000)
    histogram, other = LatencyHistogram(), LatencyHistogram()
    histogram.add(list(seconds[:5000]))
    other.add(list(seconds[5000:]))
    histogram.merge(other)
    assert len(histogram) == 20_000
    assert histogram.max == seconds.max()
    for percent in (50, 90, 99, 99.9):
        assert histogram.percentile(percent) == pytest.approx(
            np.percentile(seconds, percent), rel=0.02
        )


class Heard:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.broken_by: list[str] = []

    def answered(self, connection: Connection, answer: Answer) -> None:
        self.answers.append(answer)

    def broken(self, connection: Connection, kind: str) -> None:
        self.broken_by.append(kind)


class Sink:
    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("size", [1, 7, 40, 10_000])
def test_an_answer_may_come_in_pieces(size: int) -> None:
    whole = answer_bytes(429, "Retry-After: 3\r\n", b"z" * 500)
    connection, heard = Connection(lambda _: None), Heard()
    connection.connection_made(Sink())  # type: ignore[arg-type]
    for _ in range(2):
        connection.send(b"", heard)
        for start in range(0, len(whole), size):
            connection.data_received(whole[start : start + size])
    assert [(one.status, one.header("retry-after"), len(one.body)) for one in heard.answers] == [
        (429, "3", 500)
    ] * 2


def test_an_answer_without_a_length_is_a_failure() -> None:
    connection, heard = Connection(lambda _: None), Heard()
    connection.connection_made(Sink())  # type: ignore[arg-type]
    connection.send(b"", heard)
    connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
    assert heard.broken_by == ["malformed"]


def test_a_stall_of_the_server_is_charged_to_all_who_should_have_been_served() -> None:
    stall_s, rate = 0.4, 200.0

    def respond(number: int) -> bytes:
        if number == 20:
            time.sleep(stall_s)  # the whole server stands still
        return answer_bytes()

    with fake_server(respond) as url:
        result = run_load(plan(url, rate=rate, connections=200, duration_s=1.0), PAYLOADS)
    slow = [one for one in result.records if one.settled - one.intended > stall_s / 4]
    # a closed loop of one client would have seen a single slow request
    assert len(slow) > 0.5 * rate * stall_s
    assert result.errors == {}
    assert is_clean(result)


def test_arrivals_without_a_free_connection_are_failures_of_the_generator() -> None:
    with fake_server(lambda _: answer_bytes(), delay_s=0.2) as url:
        result = run_load(plan(url, rate=200.0, connections=2), PAYLOADS)
    assert result.errors["no_connection"] > 50
    assert not is_clean(result)


def test_a_closed_loop_waits_for_its_answers() -> None:
    with fake_server(lambda _: answer_bytes(), delay_s=0.05) as url:
        result = run_load(plan(url, connections=3), PAYLOADS)
    # ten turns of three clients, and what was on its way at the end; fewer on a busy machine
    assert set(result.statuses) == {200}
    assert 10 <= result.statuses[200] <= 33
    assert result.images_per_s == pytest.approx(result.statuses[200] / 0.5, rel=0.25)
    metrics = {row.metric: row.value for row in load_rows("case", result)}
    assert 50 <= metrics["latency p50"] < 150


def test_a_loop_that_wakes_a_moment_early_loses_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sleep = asyncio.sleep

    async def early(seconds: float) -> None:
        await sleep(seconds - 0.001 if 0.002 < seconds < 1 else seconds)

    async def generate(url: str) -> LoadResult:
        start_at = time.monotonic() + 0.05
        client = Client(plan(url), PAYLOADS, share=(0, 1), start_at=start_at)
        return (await client.run()).result

    with fake_server(lambda _: answer_bytes(), delay_s=0.1) as url:
        monkeypatch.setattr("loadtests.generator.client.asyncio.sleep", early)
        result = asyncio.run(generate(url))
    assert sum(result.statuses.values()) == result.requests == result.offered


def test_warming_up_needs_no_process() -> None:
    with fake_server(lambda _: answer_bytes(), delay_s=0.05) as url:
        assert set(warm_up(plan(url, duration_s=0.2), PAYLOADS).statuses) == {200}


def test_refusals_are_repeated_until_they_are_accepted() -> None:
    draws = np.random.default_rng(0).integers(3, size=10_000)

    def respond(number: int) -> bytes | None:
        refusal = answer_bytes(503, "retry-after: 1\r\n")
        return (answer_bytes(), refusal, None)[draws[number]]

    with fake_server(respond) as url:
        retry = Retry(attempts=20, backoff_s=0.01, cap_s=0.02)
        result = run_load(plan(url, connections=2, retry=retry), PAYLOADS)
        without = run_load(plan(url, connections=2), PAYLOADS)
    assert set(result.statuses) == {200}
    assert result.errors == {}
    assert result.retries["503"] > 0
    assert result.retries["closed"] > 0
    assert without.statuses[503] > 0
    assert without.errors["closed"] > 0
    assert not is_clean(without)


def test_silence_is_a_time_out_and_nobody_a_refusal() -> None:
    with fake_server(lambda _: answer_bytes(), delay_s=5) as url:
        result = run_load(plan(url, connections=2, timeout_s=0.3), PAYLOADS)
    assert result.errors["timeout"] >= 2
    gone = run_load(plan(url, connections=2), PAYLOADS)
    assert set(gone.errors) == {"refused"}


def test_half_of_the_clients_leave() -> None:
    with fake_server(lambda _: answer_bytes(), delay_s=0.1) as url:
        result = run_load(
            plan(url, rate=200.0, connections=100, abandon_share=0.5, abandon_within_s=0.05),
            PAYLOADS,
        )
    assert result.errors["abandoned"] == pytest.approx(result.offered / 2, rel=0.4)
    assert result.statuses[200] + result.errors["abandoned"] == result.offered


def test_two_processes_share_the_rate() -> None:
    with fake_server(lambda _: answer_bytes()) as url:
        result = run_load(
            plan(url, rate=200.0, processes=2, connections=20, duration_s=1.0, arrivals="constant"),
            PAYLOADS,
        )
    assert result.offered == pytest.approx(200, abs=3)
    assert sum(sum(second.values()) for second in result.timeline) == result.offered


def test_pictures_have_the_wanted_size_and_differ() -> None:
    pictures = jpeg_pictures(500, 375, number=8, target_bytes=50_000)
    again = jpeg_pictures(500, 375, number=8, target_bytes=50_000)
    assert pictures == again
    assert len(set(pictures)) == 8
    for picture in pictures:
        assert 30_000 < len(picture) < 70_000
        limits = DecodeLimits(max_pixels=10**6, max_side=1000)
        assert decode_rgb(picture, limits=limits).shape == (375, 500, 3)


def test_the_service_finds_all_pictures_of_a_multipart_request() -> None:
    pictures = [b"first", b"second", b"third"]
    payloads = multipart_payloads("/classify", pictures, 2)
    bodies = [parse_body(one.body, one.content_type, LimitSettings()) for one in payloads]
    assert [body.images for body in bodies] == [
        (b"first", b"second"),
        (b"second", b"third"),
        (b"third", b"first"),
    ]
    assert [one.images for one in raw_payloads("/classify", pictures)] == [1, 1, 1]


def test_a_process_is_sampled() -> None:
    import os

    (own, *_) = sample_processes(os.getpid())
    assert own.title == "smserve"
    assert own.cpu_s > 0
    assert own.rss > 10**7
    assert own.fds > 2
