"""The Open Inference Protocol: the same limits, keys, deadlines and counts as on other routes."""

import asyncio
import gzip

import numpy as np
import pytest

from service.engine.base import Job, Outcome, Priority
from tests.service.conftest import Start
from tests.service.pictures import jpeg, png
from tests.service.running import Running
from tests.service.v2 import image_request, infer, pixel_request

pytestmark = pytest.mark.anyio

NOISE = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), np.uint8)


def jobs_of(running: Running, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What the engine is asked from now on."""
    asked: list[Job] = []
    engine = running.context.engine
    predict = engine.predict

    async def note(job: Job) -> Outcome:
        asked.append(job)
        return await predict(job)

    monkeypatch.setattr(engine, "predict", note)
    return asked


async def test_only_masks_that_are_wanted_are_computed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as running:
        asked = jobs_of(running, monkeypatch)
        await infer(running.client, "detect", image_request(jpeg()))
        without = image_request(jpeg(), outputs=[{"name": "boxes"}])
        await infer(running.client, "detect", without)
    assert [job.params.with_masks for job in asked] == [True, False]  # type: ignore[union-attr]


async def test_scheduling(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start() as running:
        asked = jobs_of(running, monkeypatch)
        clock = asyncio.get_running_loop().time
        urgent = image_request(jpeg(), parameters={"priority": 1, "timeout": 2_000_000})
        for request, headers, seconds in (
            (urgent, {}, 2),
            (image_request(jpeg(), parameters={"priority": 3}), {"X-Priority": "high"}, 30),
            (image_request(jpeg(), parameters={"priority": 0}), {"X-Priority": "high"}, 30),
            (image_request(jpeg()), {"X-Request-Timeout-Ms": "9000"}, 9),
        ):
            sent = clock()
            response = await infer(running.client, "classify", request, **headers)
            assert response.status_code == 200
            assert sent <= asked[-1].deadline - seconds <= clock()
    assert [job.priority for job in asked] == [
        Priority.HIGH,
        Priority.NORMAL,
        Priority.HIGH,
        Priority.NORMAL,
    ]


async def test_the_deadline_holds(start: Start) -> None:
    async with start(stub={"batch_ms": 500}) as running:
        request = image_request(jpeg(), parameters={"timeout": 50_000})
        response = await infer(running.client, "classify", request)
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        request = image_request(jpeg(), parameters={"timeout": 10**15})
        assert (await infer(running.client, "classify", request)).status_code == 422


async def test_limits_of_pictures(start: Start) -> None:
    async with start(
        limits={"max_pixels": 3000, "max_side": 100, "max_images_per_request": 2}
    ) as running:
        client = running.client
        for request, code in (
            (pixel_request(NOISE[:, :, :50]), None),
            (pixel_request(np.zeros((1, 60, 60, 3), np.uint8)), "image_too_large"),
            (pixel_request(np.zeros((1, 1, 101, 3), np.uint8)), "image_too_large"),
            (image_request(png(60, 60)), "image_too_large"),
            (image_request(jpeg(), jpeg(), jpeg()), "too_many_images"),
            (pixel_request(np.zeros((3, 2, 2, 3), np.uint8)), "too_many_images"),
        ):
            response = await infer(client, "classify", request)
            assert response.status_code == (200 if code is None else 413)
            assert response.json().get("code") == code
        assert running.metric("smserve_decode_errors_total", reason="too_large") == 3
        assert running.metric("smserve_rejected_total", reason="too_large") == 5


async def test_limits_of_bytes(start: Start) -> None:
    async with start(limits={"max_body_bytes": 10_000}) as running:
        large = pixel_request(np.zeros((1, 100, 100, 3), np.uint8))
        assert (await infer(running.client, "classify", large)).status_code == 413
        packed = gzip.compress(large[0]), large[1]
        assert len(packed[0]) < 1000
        response = await infer(running.client, "classify", packed, **{"Content-Encoding": "gzip"})
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


async def test_what_unpacks_is_counted_with_the_other_bodies(start: Start) -> None:
    body, headers = pixel_request(np.zeros((1, 60, 60, 3), np.uint8))
    room = len(body) + 10
    async with start(limits={"max_body_bytes": room}, queue={"max_bytes": room}) as running:
        packed = gzip.compress(body), headers
        response = await infer(running.client, "classify", packed, **{"Content-Encoding": "gzip"})
        assert (response.status_code, response.json()["code"]) == (429, "queue_full")
        assert response.headers["retry-after"]
        # and it is given back
        response = await infer(running.client, "classify", image_request(jpeg()))
        assert response.status_code == 200


async def test_admission_and_counts(start: Start) -> None:
    async with start(queue={"max_images": 1}, stub={"batch_ms": 100}) as running:
        response = await infer(running.client, "classify", image_request(jpeg(), jpeg()))
        assert (response.status_code, response.json()["code"]) == (429, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        assert (await infer(running.client, "classify", image_request(jpeg()))).status_code == 200
        assert (await running.client.post("/v2/models/nobody/infer")).status_code == 404
        labels = {"task": "classify", "model": "stub-classify"}
        for code in ("200", "429"):
            assert running.metric("smserve_requests_total", **labels, code=code) == 1
        assert running.metric("smserve_images_total", **labels, outcome="ok") == 2


async def test_keys(start: Start) -> None:
    async with start(api_keys=["long-secret"]) as running:
        client, key = running.client, {"Authorization": "Bearer long-secret"}
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stub-detect/ready"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("", "/config", "/stats", "/versions/1"):
            url = f"/v2/models/stub-detect{path}"
            assert (await client.get(url)).status_code == 401, path
            assert (await client.get(url, headers=key)).status_code == 200, path
        assert (await client.post("/v2/repository/index")).status_code == 401
        request = image_request(jpeg())
        assert (await infer(client, "detect", request)).status_code == 401
        assert (await infer(client, "detect", request, **key)).status_code == 200


async def test_a_closed_service(start: Start) -> None:
    async with start() as running:
        lifecycle = running.context.lifecycle
        lifecycle.close()
        for path in ("/v2/health/ready", "/v2/models/stub-detect/ready"):
            response = await running.client.get(path)
            assert (response.status_code, response.json()["code"]) == (503, "shutting_down")
        assert (await running.client.get("/v2/health/live")).json() == {"live": True}
        response = await infer(running.client, "detect", image_request(jpeg()))
        assert (response.status_code, response.json()["code"]) == (503, "shutting_down")
        assert response.headers["retry-after"]
