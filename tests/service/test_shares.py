"""Who goes first, and how much one client may hold."""

import asyncio
from functools import partial

import pytest

from tests.service.conftest import Start
from tests.service.pictures import jpeg
from tests.service.test_pressure import fill_pipeline, until

pytestmark = pytest.mark.anyio
KEYS = {"api_keys": ("first-client", "other-client")}


async def test_high_priority_goes_first(start: Start) -> None:
    async with start(stub={"batch_ms": 300}, batch={"max_images": 1}) as running:
        before = await fill_pipeline(running)
        order: list[str] = []

        async def post(priority: str) -> None:
            headers = {"X-Priority": priority}
            response = await running.client.post("/classify", content=jpeg(), headers=headers)
            assert response.status_code == 200
            order.append(priority)

        waiting = [asyncio.create_task(post("normal")) for _ in range(3)]
        await until(lambda: running.metric("smserve_queue_depth", task="classify") == 3)
        waiting += [asyncio.create_task(post(name)) for name in ("high", "1")]
        await asyncio.gather(*before, *waiting)
        # which of two is decoded first is nobody's promise
        assert sorted(order[:2]) == ["1", "high"]
        assert order[2:] == ["normal"] * 3


async def test_what_goes_first_is_not_refused_for_what_waits_behind_it(start: Start) -> None:
    async with start(
        stub={"batch_ms": 200}, batch={"max_images": 1, "max_age_ms": 60_000}
    ) as running:
        assert (await running.client.post("/classify", content=jpeg())).status_code == 200
        before = await fill_pipeline(running)
        waiting = [
            asyncio.create_task(running.client.post("/classify", content=jpeg())) for _ in range(10)
        ]
        await until(lambda: running.metric("smserve_queue_depth", task="classify") == 10)
        # until a front end has heard of the queue
        await asyncio.sleep(0.25)
        answers = {}
        for priority in ("normal", "high"):
            headers = {"X-Priority": priority, "X-Request-Timeout-Ms": "1300"}
            answers[priority] = await running.client.post(
                "/classify", content=jpeg(), headers=headers
            )
        assert answers["normal"].json()["code"] == "deadline_unreachable"
        assert answers["high"].status_code == 200
        await asyncio.gather(*before, *waiting)


@pytest.mark.parametrize("priority", ["0", "3", "urgent", "-1", ""])
async def test_unknown_priorities_are_refused(start: Start, priority: str) -> None:
    async with start() as running:
        headers = {"X-Priority": priority}
        response = await running.client.post("/classify", content=jpeg(), headers=headers)
        assert response.status_code == 422
        assert "X-Priority" in response.json()["detail"]


async def test_one_client_cannot_take_the_whole_queue(start: Start) -> None:
    async with start(**KEYS, queue={"max_images_per_key": 2}, stub={"batch_ms": 150}) as running:

        async def post(key: str) -> tuple[int, str]:
            response = await running.client.post(
                "/classify", content=jpeg(), headers={"X-API-Key": key}
            )
            return response.status_code, response.headers.get("retry-after", "")

        greedy = [asyncio.create_task(post("first-client")) for _ in range(5)]
        modest = [asyncio.create_task(post("other-client")) for _ in range(2)]
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
