"""Mutated pictures and random bytes: an answer or a clear refusal, never a failure."""

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("hypothesis", reason="pictures are generated")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.service.pictures import READABLE, encode, photo
from tests.service.processes import ServiceProcess, service_process

FINE = {200, 400, 413, 415, 422, 429, 503, 504}
SEEDS = {name: make() for name, make in READABLE.items()} | {
    "photo": photo(96, 64),
    "noise tiff": encode(Image.open(io.BytesIO(photo(64, 48))), "TIFF", compression="tiff_lzw"),
}
QUIET = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with service_process() as running:
        yield running


@pytest.fixture(scope="module")
def session(service: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A picture with some bytes changed, cut out, repeated, or glued to another one."""
    content = bytearray(SEEDS[draw(st.sampled_from(sorted(SEEDS)))])
    for _ in range(draw(st.integers(1, 8))):
        position = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "cut", "end", "repeat", "glue", "number"])):
            case "flip":
                if content:
                    content[position] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[position : position + draw(st.integers(1, 64))]
            case "end":
                del content[position:]
            case "repeat":
                content[position:position] = content[position : position + 64]
            case "glue":
                content += SEEDS[draw(st.sampled_from(sorted(SEEDS)))]
            case "number":
                content[position : position + 4] = draw(
                    st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"])
                )
    return bytes(content)


def check(response: httpx.Response) -> None:
    assert response.status_code in FINE, (response.status_code, response.text[:500])
    if response.status_code != 200:
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["detail"]


@QUIET
@given(content=mutated(), task=st.sampled_from(["classify", "detect", "segment"]))
def test_mutated_pictures(session: httpx.Client, content: bytes, task: str) -> None:
    check(session.post(f"/{task}", content=content))


@QUIET
@given(content=mutated())
def test_mutated_pictures_as_overlays(session: httpx.Client, content: bytes) -> None:
    check(session.post("/segment", params={"output": "overlay"}, content=content))


@QUIET
@given(
    content=st.binary(max_size=300),
    content_type=st.sampled_from(
        [
            "application/json",
            "application/json; charset=utf-7",
            "multipart/form-data; boundary=X",
            'multipart/form-data; boundary="',
            "multipart/form-data; boundary=" + "X" * 500,
            "image/jpeg",
            ";;;",
        ]
    ),
)
@example(content=b"--X\r\n\r\n\r\n--X--", content_type="multipart/form-data; boundary=X")
@example(content=b'{"inputs": "\\ud800"}', content_type="application/json")
@example(content=b'{"inputs": "4pi9", "parameters": []}', content_type="application/json")
def test_random_bodies(session: httpx.Client, content: bytes, content_type: str) -> None:
    check(session.post("/classify", content=content, headers={"Content-Type": content_type}))


@QUIET
@given(
    pairs=st.lists(
        st.tuples(
            st.sampled_from(["model", "top_k", "threshold", "classes", "format", "timeout_ms"])
            | st.text(max_size=8),
            st.text(max_size=12),
        ),
        max_size=4,
    )
)
def test_random_parameters(session: httpx.Client, pairs: list[tuple[str, str]]) -> None:
    try:
        request = session.build_request("POST", "/classify", params=pairs, content=b"x")
    except UnicodeEncodeError:
        return
    response = session.send(request)
    assert response.status_code in FINE | {404}, response.text[:500]


def test_concurrent_junk_does_not_stop_pictures(service: ServiceProcess) -> None:
    async def post(client: httpx.AsyncClient, content: bytes) -> int:
        return (await client.post("/detect", content=content)).status_code

    async def run() -> list[Any]:
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(base_url=service.url, timeout=30, limits=limits) as client:
            posts = [post(client, photo() if n % 3 == 0 else b"junk" * n) for n in range(60)]
            return await asyncio.gather(*posts)

    statuses = asyncio.run(run())
    assert statuses[::3] == [200] * 20
    assert statuses.count(422) == 40
