"""Who goes first, and how much one client may hold."""

import asyncio
from functools import partial

import httpx
import pytest

from tests.service.conftest import Start
from tests.service.pictures import jpeg
from tests.service.running import Running, until
from tests.service.test_pressure import fill_pipeline

pytestmark = pytest.mark.anyio
KEYS = {"api_keys": ("first-client", "other-client")}


async def test_high_priority_goes_first(start: Start) -> None:
    async with start(batch={"max_images": 1, "max_age_ms": 60_000}) as running:
        order: list[str] = []

        async def post(priority: str) -> None:
            headers = {"X-Priority": priority}
            response = await running.client.post("/classify", content=jpeg(), headers=headers)
            assert response.status_code == 200
            order.append(priority)

        with running.held_device() as release:
            before = await fill_pipeline(running)
            waiting = [asyncio.create_task(post("normal")) for _ in range(3)]
            await until(lambda: running.metric("smserve_queue_depth", task="classify") == 3)
            waiting += [asyncio.create_task(post(name)) for name in ("high", "1")]
            await until(lambda: running.metric("smserve_queue_depth", task="classify") == 5)
            release()
            await asyncio.gather(*before, *waiting)
        # which of two is decoded first is nobody's promise
        assert sorted(order[:2]) == ["1", "high"]
        assert order[2:] == ["normal"] * 3


async def test_what_goes_first_is_not_refused_for_what_waits_behind_it(start: Start) -> None:
    async with start(
        stub={"batch_ms": 100}, batch={"max_images": 1, "max_age_ms": 60_000}
    ) as running:

        def post(priority: str) -> "asyncio.Task[httpx.Response]":
            # less than all that waits takes, and many times what one picture takes
            headers = {"X-Priority": priority, "X-Request-Timeout-Ms": "2000"}
            return asyncio.create_task(
                running.client.post("/classify", content=jpeg(), headers=headers)
            )

        assert (await running.client.post("/classify", content=jpeg())).status_code == 200
        with running.held_device() as release:
            before = await fill_pipeline(running)
            waiting = [
                asyncio.create_task(running.client.post("/classify", content=jpeg()))
                for _ in range(25)
            ]
            await until(lambda: running.metric("smserve_queue_depth", task="classify") == 25)
            await until(lambda: heard_wait_s(running) > 2)
            assert (await post("normal")).json()["code"] == "deadline_unreachable"
            high = post("high")
            await until(lambda: running.metric("smserve_queue_depth", task="classify") == 26)
            release()
            assert (await high).status_code == 200
            for one in waiting:
                one.cancel()
            await asyncio.gather(*before, *waiting, return_exceptions=True)


def heard_wait_s(running: Running) -> float:
    """What the front end knows of the time that the present work needs."""
    if running.apart is None:
        return running.core.predicted_wait_s()
    (link,) = running.context.engine._links  # type: ignore[attr-defined]
    return float(link.load.wait_s)


@pytest.mark.parametrize("priority", ["0", "3", "urgent", "-1", ""])
async def test_unknown_priorities_are_refused(start: Start, priority: str) -> None:
    async with start() as running:
        headers = {"X-Priority": priority}
        response = await running.client.post("/classify", content=jpeg(), headers=headers)
        assert response.status_code == 422
        assert "X-Priority" in response.json()["detail"]


async def test_one_client_cannot_take_the_whole_queue(start: Start) -> None:
    async with start(**KEYS, queue={"max_images_per_key": 2}) as running:

        async def post(key: str) -> tuple[int, str]:
            response = await running.client.post(
                "/classify", content=jpeg(), headers={"X-API-Key": key}
            )
            return response.status_code, response.headers.get("retry-after", "")

        with running.held_device() as release:
            greedy = [asyncio.create_task(post("first-client")) for _ in range(5)]
            modest = [asyncio.create_task(post("other-client")) for _ in range(2)]
            await until(lambda: sum(one.done() for one in greedy) == 3)
            release()
            answers = await asyncio.gather(*greedy)
        assert sorted(status for status, _ in answers) == [200, 200, 429, 429, 429]
        assert all(retry for status, retry in answers if status == 429)
        assert [status for status, _ in await asyncio.gather(*modest)] == [200, 200]
        counted = partial(running.metric, "smserve_rejected_total")
        assert counted(reason="client_limit") == 3
        assert (await post("first-client"))[0] == 200, "what is answered no longer counts"


async def test_without_keys_there_are_no_shares(start: Start) -> None:
    async with start(queue={"max_images_per_key": 1}, stub={"batch_ms": 50}) as running:
        posts = [running.client.post("/classify", content=jpeg()) for _ in range(4)]
        assert {one.status_code for one in await asyncio.gather(*posts)} == {200}
