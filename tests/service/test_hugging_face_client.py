"""Hugging Face's own client, unmodified, against the real service."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("huggingface_hub", reason="the client under test")

from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.service.pictures import RED, encode, jpeg
from tests.service.processes import ServiceProcess, service_process

TASKS = {
    "classify": "image_classification",
    "detect": "object_detection",
    "segment": "image_segmentation",
}


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with service_process(log__level="warning") as running:
        yield running


def client_of(service: ServiceProcess, task: str) -> InferenceClient:
    return InferenceClient(model=f"{service.url}/hf/{task}", timeout=30)


def ask(service: ServiceProcess, task: str, image: Any, **parameters: Any) -> list[Any]:
    answered: list[Any] = getattr(client_of(service, task), TASKS[task])(image, **parameters)
    return answered


@pytest.mark.parametrize("kind", ["bytes", "path", "text path", "PIL"])
def test_every_kind_of_picture(service: ServiceProcess, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "red.jpg"
    path.write_bytes(jpeg())
    # this version of the client declares PIL images and refuses them for these tasks
    image = {
        "bytes": jpeg(),
        "path": path,
        "text path": str(path),
        "PIL": encode(Image.open(path), "PNG"),
    }[kind]
    first = ask(service, "classify", image)[0]
    assert first.label == "red"
    assert 0.9 < first.score <= 1


def test_classify_with_parameters(service: ServiceProcess) -> None:
    assert len(ask(service, "classify", jpeg())) == 5
    found = ask(service, "classify", jpeg(), top_k=2, function_to_apply="softmax")
    assert [one.label for one in found] == [one.label for one in ask(service, "classify", jpeg())][
        :2
    ]


def test_detect(service: ServiceProcess) -> None:
    found = ask(service, "detect", jpeg())
    assert [one.label for one in found] == ["red", "green", "blue"]
    box = found[0].box
    assert [box.xmin, box.ymin, box.xmax, box.ymax] == [6, 10, 32, 38]
    assert all(type(edge) is int for edge in vars(box).values())
    assert [one.label for one in ask(service, "detect", jpeg(), threshold=0.7)] == ["red"]


def test_segment(service: ServiceProcess) -> None:
    found = ask(
        service,
        "segment",
        jpeg(),
        subtask="semantic",
        threshold=0.9,
        mask_threshold=0.5,
        overlap_mask_area_threshold=0.5,
    )
    assert [one.label for one in found] == [one.label for one in ask(service, "segment", jpeg())]
    masks = [np.asarray(one.mask) for one in found]
    assert all(one.score is None and one.mask.mode == "L" for one in found)
    assert {mask.shape for mask in masks} == {(48, 64)}
    assert set(np.unique(masks)) == {0, 255}
    # every pixel belongs to one class
    np.testing.assert_array_equal(np.sum(masks, axis=0, dtype=int), np.full((48, 64), 255))


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_the_asynchronous_client(service: ServiceProcess) -> None:
    async def run() -> list[list[Any]]:
        client = AsyncInferenceClient(timeout=30)
        calls = [
            client.image_classification(jpeg(), model=f"{service.url}/hf/classify", top_k=1),
            client.object_detection(jpeg(), model=f"{service.url}/hf/detect"),
            client.image_segmentation(jpeg(), model=f"{service.url}/hf/segment"),
        ]
        try:
            return await asyncio.gather(*calls)
        finally:
            await client.close()

    classes, objects, segments = asyncio.run(run())
    assert [one.label for one in classes] == ["red"]
    assert objects[0].label == "red"
    assert segments[0].mask.size == (64, 48)


@pytest.mark.parametrize(
    ("task", "image", "parameters", "status", "text"),
    [
        ("classify", b"junk", {}, 422, "not a readable image"),
        ("classify", b"%PDF-1.7", {}, 415, "PDF is not served"),
        ("classify", jpeg(), {"function_to_apply": "sigmoid"}, 422, "function_to_apply"),
        ("classify", jpeg(), {"top_k": 0}, 422, "top_k"),
        ("detect", jpeg(), {"threshold": 2.0}, 422, "threshold"),
        ("segment", jpeg(), {"subtask": "panoptic"}, 422, "subtask"),
        ("segment", jpeg(), {"mask_threshold": -1.0}, 422, "mask_threshold"),
    ],
)
def test_errors_have_our_text_and_status(
    service: ServiceProcess,
    task: str,
    image: bytes,
    parameters: dict[str, Any],
    status: int,
    text: str,
) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        ask(service, task, image, **parameters)
    assert caught.value.response.status_code == status
    assert text in str(caught.value)
    assert caught.value.response.headers["x-request-id"] in str(caught.value)


def test_an_unknown_model_is_named(service: ServiceProcess) -> None:
    client = InferenceClient(model=f"{service.url}/hf/classify?model=nobody")
    with pytest.raises(HfHubHTTPError, match="there is no model 'nobody'"):
        client.image_classification(jpeg())


def test_addresses_are_fetched_by_the_client_only(service: ServiceProcess) -> None:
    address = f"{service.url}/samples/stickers-1.jpg"
    assert ask(service, "classify", address)
    response = httpx.post(f"{service.url}/hf/classify", json={"inputs": address})
    assert response.status_code == 400
    assert "not fetched" in response.json()["error"]


def test_keys_are_the_token_of_the_client() -> None:
    key, other = "hf_0123456789", "hf_9876543210"
    with service_process(api_keys=key, log__level="error") as service:
        url = f"{service.url}/hf/classify"
        assert InferenceClient(model=url, token=key).image_classification(jpeg())
        with pytest.raises(HfHubHTTPError, match="valid API key"):
            InferenceClient(model=url, token=other).image_classification(jpeg())


def test_red_is_red() -> None:
    """What the other tests rest on."""
    assert Image.open(io.BytesIO(jpeg())).getpixel((3, 3)) == pytest.approx(RED, abs=8)
