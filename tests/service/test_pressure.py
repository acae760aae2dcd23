"""Overload, deadlines, clients that leave, faults of the model, faults of the device, shutdown."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.engine.base import EngineState
from tests.service.conftest import Start
from tests.service.pictures import jpeg
from tests.service.running import Running, until

pytestmark = pytest.mark.anyio

LABELS = {"task": "classify", "model": "stub-classify"}


def device_is_busy(running: Running) -> Callable[[], bool]:
    return lambda: running.core._batcher.is_busy


async def fill_pipeline(running: Running) -> list["asyncio.Task[httpx.Response]"]:
    """One picture computes, one is prepared: all that comes now waits."""
    posts = []
    for number in (1, 2):
        posts.append(asyncio.create_task(running.client.post("/classify", content=jpeg())))
        await until(
            lambda number=number: (  # type: ignore[misc]
                len(running.core._batcher._pipeline._flights) == number
            )
        )
    return posts


async def queued(running: Running) -> "asyncio.Task[httpx.Response]":
    """One picture that waits behind the others."""
    post = asyncio.create_task(running.client.post("/classify", content=jpeg()))
    await until(lambda: running.metric("smserve_queue_depth", task="classify") == 1)
    return post


def http_scope(path: str, content: bytes) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-length", str(len(content)).encode())],
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "root_path": "",
    }


class LeavingClient:
    """Sends a whole request and closes the connection when told to."""

    def __init__(self, running: Running, content: bytes) -> None:
        self.sent: list[Any] = []
        self._content = content
        self._gone = asyncio.Event()
        self._is_asked = False
        scope = http_scope("/classify", content)
        self.request = asyncio.create_task(running.app(scope, self._receive, self._send))

    def leave(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if not self._is_asked:
            self._is_asked = True
            return {"type": "http.request", "body": self._content, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def test_a_full_queue_is_429_with_retry_after(start: Start) -> None:
    async with start(queue={"max_images": 3}) as running:
        with running.held_device() as release:
            posts = [
                asyncio.create_task(running.client.post("/classify", content=jpeg()))
                for _ in range(10)
            ]
            await until(lambda: sum(post.done() for post in posts) == 7)
            release()
            responses = await asyncio.gather(*posts)
        refused = [response for response in responses if response.status_code == 429]
        assert len(refused) == 7
        for response in refused:
            assert response.json()["code"] == "queue_full"
            assert int(response.headers["retry-after"]) == response.json()["retry_after_s"] >= 1
        assert running.metric("smserve_rejected_total", reason="queue_full") == 7
        assert running.metric("smserve_images_total", outcome="rejected", **LABELS) == 7
        assert running.metric("smserve_images_total", outcome="ok", **LABELS) == 3


async def test_a_part_of_a_request_may_be_refused(start: Start) -> None:
    async with start(queue={"max_images": 2}, stub={"batch_ms": 50}) as running:
        files = [("image", jpeg()) for _ in range(4)]
        response = await running.client.post("/classify", files=files)
        assert response.status_code == 200
        statuses = [one.get("status", 200) for one in response.json()]
        assert statuses == [200, 200, 429, 429]


async def test_a_passed_deadline_is_504(start: Start) -> None:
    async with start() as running:
        with running.held_device() as release:
            blocker = asyncio.create_task(running.client.post("/classify", content=jpeg()))
            await until(device_is_busy(running))
            response = await running.client.post(
                "/classify", params={"timeout_ms": 50}, content=jpeg()
            )
            assert response.status_code == 504
            assert response.json()["code"] == "deadline_exceeded"
            release()
            assert (await blocker).status_code == 200
        await until(lambda: running.metric("smserve_dropped_total", reason="deadline") == 1)
        images = running.metric("smserve_batch_size_images_sum", **LABELS)
        assert images == 1, "what nobody waits for is not computed"


async def test_the_header_sets_the_deadline_too(start: Start) -> None:
    async with start() as running:
        headers = {"X-Request-Timeout-Ms": "30"}
        with running.held_device():
            response = await running.client.post("/classify", content=jpeg(), headers=headers)
        assert response.status_code == 504


async def test_a_hopeless_deadline_is_refused_at_once(start: Start) -> None:
    async with start(stub={"batch_ms": 300}, batch={"max_images": 1}) as running:
        # so that it knows what a batch takes
        await running.client.post("/classify", content=jpeg())
        with running.held_device() as release:
            posts = [
                asyncio.create_task(running.client.post("/classify", content=jpeg()))
                for _ in range(5)
            ]
            depth = {"task": "classify"}
            await until(lambda: running.metric("smserve_queue_depth", **depth) == 3)
            assert running.metric("smserve_queue_pixels", **depth) == 3 * 224 * 224
            # one that waited for its deadline, or for the device, would be told something else
            response = await running.client.post(
                "/classify", params={"timeout_ms": 500}, content=jpeg()
            )
            assert response.status_code == 429
            assert response.json()["code"] == "deadline_unreachable"
            assert response.json()["retry_after_s"] >= 1
            assert running.metric("smserve_rejected_total", reason="deadline") == 1
            release()
            assert {response.status_code for response in await asyncio.gather(*posts)} == {200}


async def test_work_of_a_client_that_left_is_dropped(start: Start) -> None:
    async with start() as running:
        with running.held_device() as release:
            blockers = await fill_pipeline(running)
            clients = [LeavingClient(running, jpeg()) for _ in range(3)]
            await until(lambda: running.metric("smserve_queue_depth", task="classify") == 3)
            for client in clients:
                client.leave()
            await asyncio.gather(*(client.request for client in clients))
            assert all(client.sent == [] for client in clients)
            await until(lambda: running.metric("smserve_queue_depth", task="classify") == 0)
            release()
            assert {(await blocker).status_code for blocker in blockers} == {200}
        assert running.metric("smserve_dropped_total", reason="client_gone") == 3
        assert running.metric("smserve_requests_total", code="499", **LABELS) == 3
        assert running.metric("smserve_batch_size_images_sum", **LABELS) == 2
        assert running.metric("smserve_inflight_requests", task="classify") == 0


async def test_a_poisoned_picture_fails_alone(start: Start) -> None:
    async with start(stub={"batch_ms": 50, "poison_width": 13}) as running:
        files = [("image", jpeg(13 if n == 3 else 64, 48)) for n in range(8)]
        answers = (await running.client.post("/classify", files=files)).json()
        assert [one.get("status", 200) for one in answers] == [200] * 3 + [500] + [200] * 4
        assert answers[3]["code"] == "inference_failed"
        assert "13" not in answers[3]["detail"], "the client does not see the model's message"
        assert running.metric("smserve_images_total", outcome="failed", **LABELS) == 1
        assert (await running.client.get("/readyz")).status_code == 200


async def test_a_crashed_device_answers_everyone_and_ends_the_service(start: Start) -> None:
    async with start(
        stub={"batch_ms": 100, "crash_after_batches": 2}, batch={"max_images": 2}
    ) as running:
        posts = [running.client.post("/classify", content=jpeg()) for _ in range(10)]
        responses = await asyncio.wait_for(asyncio.gather(*posts), timeout=30)
        statuses = sorted(response.status_code for response in responses)
        # the first batch of this model is its warm-up
        assert statuses.count(503) >= 6
        assert statuses.count(200) + statuses.count(503) == 10
        lost = next(response for response in responses if response.status_code == 503)
        assert lost.json()["code"] == "engine_unavailable"
        status = running.context.engine.status
        # a front end hears of it with the engine's next message
        await until(lambda: status().state is not EngineState.READY)
        assert (await running.client.get("/readyz")).status_code == 503
        # a front end process lives on: its engine is being replaced
        lives = 503 if running.apart is None else 200
        assert (await running.client.get("/livez")).status_code == lives
        assert (await running.client.post("/classify", content=jpeg())).status_code == 503
        assert (running.context.lifecycle.failure is not None) == (running.apart is None)
        assert running.core.status().state is EngineState.FAILED
        assert running.metric("smserve_model_ready", **LABELS) == 0


async def test_an_unexpected_error_is_a_500_without_details(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise LookupError("secret detail")

    async with start() as running:
        monkeypatch.setattr("service.prediction.build_answer", broken)
        response = await running.client.post("/classify", content=jpeg())
        assert response.status_code == 500
        assert response.json()["code"] == "internal"
        assert "secret" not in response.text
        assert "secret detail" in caplog.text, "the log has the traceback"


async def test_a_closed_service_refuses_work_and_answers_the_rest(start: Start) -> None:
    async with start() as running:
        with running.held_device() as release:
            accepted = asyncio.create_task(running.client.post("/classify", content=jpeg()))
            await until(device_is_busy(running))
            running.context.lifecycle.begin_closing()
            ready = await running.client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["code"] == "shutting_down"
            assert (await running.client.post("/classify", content=b"")).status_code == 422
            running.context.lifecycle.close()
            refused = await running.client.post("/classify", content=jpeg())
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            assert refused.headers["retry-after"]
            assert (await running.client.get("/livez")).status_code == 200
            assert running.metric("smserve_draining") == 1
            assert running.metric("smserve_rejected_total", reason="draining") == 1
            assert not await running.context.lifecycle.drained(timeout_s=0.01)
            release()
            assert await running.context.lifecycle.drained(timeout_s=30)
            assert (await accepted).status_code == 200


async def test_stopping_the_engine_finishes_accepted_work(start: Start) -> None:
    async with start(batch={"max_images": 1}) as running:
        with running.held_device() as release:
            posts = [*await fill_pipeline(running), await queued(running)]
            engine = running.context.engine
            stopping = asyncio.create_task(engine.stop(timeout_s=30))
            await until(lambda: engine.status().state is EngineState.DRAINING)
            release()
            await stopping
            assert [(await post).status_code for post in posts] == [200, 200, 200]
        assert running.context.engine.status().state is EngineState.STOPPED
        late = await running.client.post("/classify", content=jpeg())
        assert late.status_code == 503


async def test_stopping_the_engine_too_late_fails_the_rest(start: Start) -> None:
    async with start(batch={"max_images": 1}) as running:
        with running.held_device():
            posts = [*await fill_pipeline(running), await queued(running)]
            await running.context.engine.stop(timeout_s=0.05)
            responses = await asyncio.wait_for(asyncio.gather(*posts), timeout=30)
        assert {response.status_code for response in responses} == {503}
        assert {response.json()["code"] for response in responses} == {"shutting_down"}


async def test_what_did_not_fit_is_remembered_and_shown(start: Start) -> None:
    async with start(
        stub={"batch_ms": 20, "memory_images": 4}, batch={"max_images": 16}
    ) as running:
        for _ in range(2):
            files = [("image", jpeg()) for _ in range(16)]
            answers = (await running.client.post("/classify", files=files)).json()
            assert ["predictions" in one for one in answers] == [True] * 16
        assert running.metric("smserve_batch_memory_cap_images", **LABELS) <= 4
        first = running.metric("smserve_device_out_of_memory_total", **LABELS)
        assert first >= 1
        files = [("image", jpeg()) for _ in range(16)]
        await running.client.post("/classify", files=files)
        assert running.metric("smserve_device_out_of_memory_total", **LABELS) == first
