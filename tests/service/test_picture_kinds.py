"""Every kind of picture over HTTP: the right answer or a clear refusal."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import Start
from tests.service.pictures import (
    READABLE,
    animated_gif,
    decompression_bomb,
    encode,
    jpeg,
    png,
    png_header,
    rotated_jpeg,
    sixteen_bit_png,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
async def test_readable_kinds(client: httpx.AsyncClient, task: str, kind: str) -> None:
    response = await client.post(f"/{task}", content=READABLE[kind]())
    assert response.status_code == 200, response.text
    assert response.json()["image"] == {"width": 64, "height": 48}


@pytest.mark.parametrize("kind", ["webp", "tiff", "cmyk jpeg", "palette png", "animated gif"])
async def test_colours_survive_the_format(client: httpx.AsyncClient, kind: str) -> None:
    answer = (await client.post("/classify", content=READABLE[kind]())).json()
    assert answer["predictions"][0]["label"] == "red"


async def test_the_first_frame_of_an_animation_counts(client: httpx.AsyncClient) -> None:
    frames = Image.open(io.BytesIO(animated_gif()))
    assert getattr(frames, "n_frames", 1) == 3
    answer = (await client.post("/classify", content=animated_gif())).json()
    assert answer["predictions"][0]["label"] == "red"


async def test_16_bit_samples_are_scaled_not_clipped(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/classify", content=sixteen_bit_png())).json()
    scores = {one["label"]: one["score"] for one in answer["predictions"]}
    # 40000 of 65535 is 156 of 255; clipped it would be 255 and surely light
    assert scores["light"] < 0.9


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_exif_orientation(client: httpx.AsyncClient, orientation: int) -> None:
    is_turned = orientation >= 5
    wanted = {"width": 48, "height": 64} if is_turned else {"width": 64, "height": 48}
    response = await client.post("/segment", content=rotated_jpeg(orientation))
    assert response.json()["image"] == wanted
    labels = await client.post(
        "/segment", params={"output": "labels"}, content=rotated_jpeg(orientation)
    )
    size = Image.open(io.BytesIO(labels.content)).size
    assert size == (wanted["width"], wanted["height"])


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2), (2000, 1)])
@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
async def test_extreme_shapes(client: httpx.AsyncClient, task: str, size: tuple[int, int]) -> None:
    response = await client.post(f"/{task}", content=png(*size))
    assert response.status_code == 200, response.text
    assert response.json()["image"] == {"width": size[0], "height": size[1]}
    drawn = await client.post(f"/{task}", params={"output": "overlay"}, content=png(*size))
    assert drawn.status_code == 200
    assert Image.open(io.BytesIO(drawn.content)).size == size


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "invalid_image"),
        (b"\0", 422, "invalid_image"),
        (b"hello", 422, "invalid_image"),
        (b"%PDF-1.7", 415, "unsupported_format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_format"),
        (b"\0\0\0\x20ftypavif" + b"\0" * 50, 415, "unsupported_format"),
        (jpeg()[:20], 422, "invalid_image"),
        (png()[:60], 422, "invalid_image"),
        (png_header(64, 48), 422, "invalid_image"),
        (png_header(20_000, 10), 413, "image_too_large"),
        (png_header(10, 20_000), 413, "image_too_large"),
        (png_header(12_000, 12_000), 413, "image_too_large"),
        (png_header(2**31 - 1, 2**31 - 1), 413, "image_too_large"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", 415, "unsupported_format"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
async def test_refused_kinds(
    client: httpx.AsyncClient, content: bytes, status: int, code: str
) -> None:
    response = await client.post("/classify", content=content)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert len(problem["detail"]) > 20


async def test_bombs_are_refused_by_their_header(client: httpx.AsyncClient) -> None:
    bomb = decompression_bomb(12_000)
    assert len(bomb) < 50_000
    response = await client.post("/segment", content=bomb)
    assert response.status_code == 413
    assert "12000x12000" in response.json()["detail"]
    assert "50000000" in response.json()["detail"], "the limit is stated"


async def test_limits_of_size_are_settings(start: Start) -> None:
    async with start(limits={"max_pixels": 5000, "max_side": 100}) as running:
        assert (await running.client.post("/classify", content=png(100, 50))).status_code == 200
        for size in ((101, 10), (100, 51)):
            response = await running.client.post("/classify", content=png(*size))
            assert response.status_code == 413
        assert running.metric("smserve_decode_errors_total", reason="too_large") == 2
        assert running.metric("smserve_rejected_total", reason="too_large") == 2


async def test_truncated_pictures_never_give_an_answer_without_saying_so(
    client: httpx.AsyncClient,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for format_name in ("PNG", "WEBP", "TIFF", "BMP"):
        whole = encode(Image.fromarray(noise), format_name)
        response = await client.post("/classify", content=whole[: len(whole) // 2])
        assert response.status_code == 422, format_name


async def test_corrupt_pictures_are_counted_and_leave_the_service_well(start: Start) -> None:
    async with start() as running:
        for _ in range(50):
            assert (await running.client.post("/detect", content=b"junk")).status_code == 422
        assert (await running.client.post("/detect", content=jpeg())).status_code == 200
        labels = {"task": "detect", "model": "stub-detect"}
        assert running.metric("smserve_images_total", outcome="invalid", **labels) == 50
        assert running.metric("smserve_decode_errors_total", reason="damaged") == 50
        assert running.metric("smserve_requests_total", code="422", **labels) == 50
