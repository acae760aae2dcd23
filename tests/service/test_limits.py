"""Keys, body bytes, slow bodies, multipart limits, memory held by bodies."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.service.conftest import Start
from tests.service.pictures import jpeg, photo
from tests.service.running import until

pytestmark = pytest.mark.anyio

KEY = "correct-horse"


@pytest.mark.parametrize("path", ["/classify", "/detect", "/segment", "/hf/classify"])
async def test_task_routes_ask_for_a_key(start: Start, path: str) -> None:
    async with start(api_keys=["another-key", KEY]) as running:
        client = running.client
        for headers in (
            {},
            {"Authorization": f"Bearer {KEY}x"},
            {"Authorization": f"Basic {KEY}"},
            {"X-API-Key": ""},
            {"X-API-Key": KEY[:-1]},
        ):
            response = await client.post(path, content=jpeg(), headers=headers)
            assert response.status_code == 401, headers
            assert response.json()["code"] == "unauthorized"
            assert response.headers["www-authenticate"] == "Bearer"
        for headers in ({"Authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}):
            response = await client.post(path, content=jpeg(), headers=headers)
            assert response.status_code == 200
        assert running.metric("smserve_rejected_total", reason="unauthorized") == 5


async def test_pages_and_probes_need_no_key_but_the_models_do(start: Start) -> None:
    async with start(api_keys=[KEY]) as running:
        for path in ("/livez", "/readyz", "/metrics", "/", "/docs", "/openapi.json"):
            assert (await running.client.get(path)).status_code == 200, path
        assert (await running.client.get("/models")).status_code == 401
        headers = {"X-API-Key": KEY}
        assert (await running.client.get("/models", headers=headers)).status_code == 200


async def test_an_announced_large_body_is_refused_before_it_is_read(start: Start) -> None:
    async with start(limits={"max_body_bytes": 1000}) as running:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            raise AssertionError("the body must not be asked for")

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/classify",
            "raw_path": b"/classify",
            "query_string": b"",
            "headers": [(b"content-length", b"1001")],
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "root_path": "",
        }
        await running.app(scope, receive, send)
        assert sent[0]["status"] == 413
        assert (b"connection", b"close") in sent[0]["headers"]


async def test_bytes_are_counted_while_they_stream(start: Start) -> None:
    async with start(limits={"max_body_bytes": 10_000}) as running:
        num_sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal num_sent
            while num_sent < 1000:
                num_sent += 1
                yield b"x" * 1000

        response = await running.client.post("/classify", content=endless())
        assert response.status_code == 413
        assert response.json()["code"] == "body_too_large"
        assert "10000" in response.json()["detail"]
        assert num_sent < 20, "the rest of the body is not read"
        assert running.metric("smserve_rejected_total", reason="too_large") == 1


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30])
async def test_odd_content_lengths(client: httpx.AsyncClient, length: str) -> None:
    response = await client.post("/classify", content=b"abc", headers={"Content-Length": length})
    assert response.status_code in (400, 413)


async def test_a_slow_body_is_408(start: Start) -> None:
    async with start(timeouts={"body_ms": 100}) as running:

        async def slow() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x"
                await asyncio.sleep(0.02)

        response = await running.client.post("/classify", content=slow())
        assert response.status_code == 408
        assert response.json()["code"] == "body_timeout"
        assert response.headers["connection"] == "close"


async def test_the_body_timeout_ends_with_the_body(start: Start) -> None:
    async with start(timeouts={"body_ms": 100}, stub={"batch_ms": 300}) as running:
        response = await running.client.post("/classify", content=jpeg())
        assert response.status_code == 200, "computing may take longer than sending"


async def test_bodies_of_all_requests_together_are_bounded(start: Start) -> None:
    picture = photo()
    limits = {"max_body_bytes": len(picture)}
    queue = {"max_bytes": int(len(picture) * 1.5)}
    async with start(limits=limits, queue=queue) as running:
        with running.held_device() as release:
            posts = [
                asyncio.create_task(running.client.post("/classify", content=picture))
                for _ in range(3)
            ]
            await until(lambda: sum(post.done() for post in posts) == 2)
            release()
            responses = await asyncio.gather(*posts)
        assert sorted(response.status_code for response in responses) == [200, 429, 429]
        refused = next(response for response in responses if response.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        again = await running.client.post("/classify", content=picture)
        assert again.status_code == 200, "what was held has been given back"


async def test_the_number_of_images_is_limited(start: Start) -> None:
    async with start(limits={"max_images_per_request": 3}) as running:
        files = [("image", (f"{n}.jpg", jpeg())) for n in range(4)]
        response = await running.client.post("/classify", files=files[:3])
        assert len(response.json()) == 3
        response = await running.client.post("/classify", files=files)
        assert response.status_code == 413
        assert response.json()["code"] == "too_many_images"
        assert "3" in response.json()["detail"]


def multipart(*parts: bytes, end: bytes = b"--XX--\r\n") -> dict[str, Any]:
    content = b"".join(b"--XX\r\n" + part + b"\r\n" for part in parts) + end
    return {"content": content, "headers": {"Content-Type": "multipart/form-data; boundary=XX"}}


PART = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'


@pytest.mark.parametrize(
    ("request_parts", "wanted"),
    [
        (multipart(), "no file"),
        (multipart(b'Content-Disposition: form-data; name="picture"\r\n\r\nx'), "picture"),
        (multipart(b'Content-Disposition: form-data; name="top_k"\r\n\r\n3'), "query"),
        (multipart(b"Content-Type: image/jpeg\r\n\r\nx"), "image"),
        (multipart(b"Content-Transfer-Encoding: base64\r\n" + PART + b"x"), "encoding"),
        (multipart(PART + b"x", end=b""), "ends before"),
        (multipart(b"X: " + b"y" * 10_000 + b"\r\n" + PART + b"x"), "malformed"),
        (multipart(b"X: y\r\n" * 100 + PART + b"x"), "malformed"),
        (
            {"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=X"}},
            "malformed",
        ),
        (
            {"content": b"junk", "headers": {"Content-Type": "multipart/form-data"}},
            "boundary",
        ),
    ],
)
async def test_malformed_multipart_is_a_clear_400(
    client: httpx.AsyncClient, request_parts: dict[str, Any], wanted: str
) -> None:
    response = await client.post("/classify", **request_parts)
    assert response.status_code == 400, response.text
    assert response.json()["code"] == "malformed_body"
    assert wanted in response.json()["detail"]


async def test_handwritten_multipart_is_read(client: httpx.AsyncClient) -> None:
    response = await client.post("/classify", **multipart(PART + jpeg(), PART + jpeg()))
    assert [one["image"]["width"] for one in response.json()] == [64, 64]


async def test_cors_is_off_unless_origins_are_named(start: Start) -> None:
    headers = {"Origin": "https://friend.example"}
    async with start() as running:
        response = await running.client.post("/classify", content=jpeg(), headers=headers)
        assert "access-control-allow-origin" not in response.headers
    async with start(cors_origins=["https://friend.example"]) as running:
        response = await running.client.post("/classify", content=b"", headers=headers)
        assert response.status_code == 422
        assert response.headers["access-control-allow-origin"] == "https://friend.example"
        assert "X-Request-ID" in response.headers["access-control-expose-headers"]
        headers["Origin"] = "https://stranger.example"
        response = await running.client.post("/classify", content=jpeg(), headers=headers)
        assert "access-control-allow-origin" not in response.headers
