"""The Open Inference Protocol over HTTP: what is asked and answered, and how errors read."""

import io
import json
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.open_inference.tensors import OUTPUTS
from service.settings import Settings
from service.work_paths import needs_key, task_of
from tests.service.conftest import Start
from tests.service.pictures import RED, encode, jpeg, rotated_jpeg
from tests.service.running import running_service
from tests.service.v2 import LENGTH, image_request, infer, outputs_of, pixel_request

pytestmark = pytest.mark.anyio

TASKS = ["classify", "detect", "segment"]
NOISE = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """One service for what does not depend on the form of its processes."""
    async with running_service(Settings(backend="stub", pool_size=2)) as running:
        yield running.client


@pytest.mark.parametrize("task", TASKS)
async def test_pixels_are_answered_like_a_file_of_them(start: Start, task: str) -> None:
    files = [encode(Image.fromarray(one), "PNG") for one in NOISE]
    async with start() as running:
        by_pixels = outputs_of(await infer(running.client, task, pixel_request(NOISE)))
        by_files = outputs_of(await infer(running.client, task, image_request(*files)))
    assert by_pixels == by_files
    assert list(by_pixels) == [spec.name for spec in OUTPUTS[task]]  # type: ignore[index]


async def test_the_same_answer_as_on_the_other_routes(client: httpx.AsyncClient) -> None:
    native = (await client.post("/detect", content=jpeg())).json()
    found = outputs_of(await infer(client, "detect", image_request(jpeg())))
    assert found["num_detections"] == [len(native["predictions"])]
    assert found["image_sizes"] == [[48, 64]]
    for index, one in enumerate(native["predictions"]):
        assert found["labels"][0][index] == one["label"]
        assert found["class_ids"][0][index] == one["class_id"]
        assert found["masks"][0][index] == one["mask"]["counts"]
        assert found["scores"][0][index] == pytest.approx(one["score"], abs=1e-6)
        assert found["boxes"][0][index] == pytest.approx(list(one["box"].values()), abs=1e-3)


async def test_files_are_upright(client: httpx.AsyncClient) -> None:
    found = outputs_of(await infer(client, "segment", image_request(rotated_jpeg(6))))
    assert np.shape(found["label_map"]) == (1, 64, 48)


async def test_a_body_that_is_the_picture(client: httpx.AsyncClient) -> None:
    response = await infer(client, "classify", (jpeg(), {LENGTH: "0"}))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/octet-stream"
    assert json.loads(response.content[: int(response.headers[LENGTH])])["outputs"]


async def test_base64_in_json(client: httpx.AsyncClient) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    content = {"inputs": [{**tensor, "data": [b64encode(jpeg()).decode()]}], "id": "a"}
    response = await client.post("/v2/models/stub-classify/infer", json=content)
    assert outputs_of(response)["labels"][0][0] == "red"
    answer = response.json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == (
        "a",
        "stub-classify",
        "1",
    )


async def test_outputs_select_and_order(client: httpx.AsyncClient) -> None:
    wanted = [{"name": "labels"}, {"name": "scores", "parameters": {"classification": 2}}]
    request = image_request(jpeg(), outputs=wanted)
    found = outputs_of(await infer(client, "classify", request))
    assert list(found) == ["labels", "scores"]
    value, number, label = found["scores"][0][0].split(":")
    assert (number, label) == ("1", "red")
    assert float(value) > 0.9


async def test_own_parameters(client: httpx.AsyncClient) -> None:
    request = image_request(jpeg(), parameters={"threshold": 0.5, "max_detections": 1})
    assert outputs_of(await infer(client, "detect", request))["num_detections"] == [1]
    request = image_request(jpeg(), parameters={"top_k": 2, "classes": "blue,green,dark"})
    labels = outputs_of(await infer(client, "classify", request))["labels"]
    assert len(labels[0]) == 2
    assert "red" not in labels[0]


@pytest.mark.parametrize(
    ("task", "members", "wanted"),
    [
        ("classify", {"outputs": [{"name": "boxes"}]}, "no output 'boxes'"),
        ("classify", {"parameters": {"topk": 2}}, "unknown parameter 'topk'"),
        ("classify", {"parameters": {"sequence_id": 2}}, "unknown parameter 'sequence_id'"),
        ("classify", {"parameters": {"top_k": 0}}, "'top_k'"),
        ("classify", {"parameters": {"top_k": "2"}}, "'top_k'"),
        ("classify", {"parameters": {"top_k": True}}, "'top_k'"),
        ("classify", {"parameters": {"classes": "rde"}}, "red"),
        ("classify", {"parameters": {"priority": -1}}, "'priority'"),
        ("classify", {"parameters": {"timeout": 0.5}}, "'timeout'"),
        ("detect", {"parameters": {"threshold": 2}}, "'threshold'"),
        ("detect", {"parameters": {"masks": "png"}}, "unknown parameter 'masks'"),
        ("segment", {"parameters": {"threshold": 0.5}}, "unknown parameter"),
        (
            "detect",
            {"outputs": [{"name": "scores", "parameters": {"classification": 1}}]},
            "classifiers",
        ),
    ],
)
async def test_what_the_model_does_not_have_is_a_clear_400(
    client: httpx.AsyncClient, task: str, members: dict[str, Any], wanted: str
) -> None:
    response = await infer(client, task, image_request(jpeg(), **members))
    assert response.status_code == 400
    problem = response.json()
    assert problem["code"] == "invalid_inference_request"
    assert problem["error"] == problem["detail"]
    assert wanted in problem["error"]


async def test_label_maps_of_one_request_share_a_size(client: httpx.AsyncClient) -> None:
    response = await infer(client, "segment", image_request(jpeg(), jpeg(32, 32)))
    assert response.status_code == 400
    assert "64x48" in response.json()["error"]


async def test_a_bad_picture_fails_its_request_and_is_named(client: httpx.AsyncClient) -> None:
    response = await infer(client, "detect", image_request(jpeg(), b"junk"))
    assert (response.status_code, response.json()["code"]) == (422, "invalid_image")
    assert "picture 1 of 2" in response.json()["error"]


@pytest.mark.parametrize("coding", ["br", "gzip", "deflate", "gzip, deflate"])
async def test_damaged_compression_is_400(client: httpx.AsyncClient, coding: str) -> None:
    response = await infer(
        client, "classify", image_request(jpeg()), **{"Content-Encoding": coding}
    )
    assert (response.status_code, response.json()["code"]) == (400, "malformed_body")


async def test_answers_are_compressed_for_those_who_ask(client: httpx.AsyncClient) -> None:
    for accept, coding in (("gzip", "gzip"), ("deflate", "deflate"), ("identity", None)):
        response = await infer(
            client, "segment", image_request(jpeg(320, 240)), **{"Accept-Encoding": accept}
        )
        assert response.headers.get("content-encoding") == coding
        assert response.headers["vary"] == "Accept-Encoding"
        assert np.shape(outputs_of(response)["label_map"]) == (1, 240, 320)


async def test_stages_are_told(client: httpx.AsyncClient) -> None:
    response = await infer(client, "classify", pixel_request(NOISE))
    stages = response.headers["server-timing"]
    assert all(f"{stage};dur=" in stages for stage in ("read", "decode", "infer", "encode"))


async def test_the_access_log_names_model_and_pictures(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="service.access"):
        await infer(client, "classify", pixel_request(NOISE))
    (line,) = [vars(record) for record in caplog.records if record.message == "request"]
    assert (line["route"], line["status"]) == ("/v2/models/{name}/infer", 200)
    assert (line["model"], line["images"]) == ("stub-classify", 2)
    assert line["bytes_in"] > NOISE.size
    assert line["stages_ms"].keys() >= {"read", "decode", "queue", "infer", "encode"}


@pytest.mark.parametrize("path", ["", "/infer", "/ready", "/config", "/stats"])
async def test_unknown_models_and_versions_are_404(client: httpx.AsyncClient, path: str) -> None:
    method = "POST" if path == "/infer" else "GET"
    for model in ("nobody", "stub-detect/versions/2"):
        response = await client.request(method, f"/v2/models/{model}{path}")
        assert (response.status_code, response.json()["code"]) == (404, "model_not_found")
    assert "stub-detect" in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/cudasharedmemory/region/a/register"),
        ("GET", "/v2/trace/setting"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/repository/models/stub-detect/load"),
        ("POST", "/v2/repository/models/stub-detect/unload"),
    ],
)
async def test_what_is_not_offered_says_so(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 404
    assert "operator" in response.json()["error"] or "not offered" in response.json()["error"]


async def test_statistics_are_those_of_the_metrics(start: Start) -> None:
    async with start() as running:
        client = running.client
        await infer(client, "classify", image_request(jpeg(), jpeg(colour=RED)))
        await client.post("/classify", content=jpeg())
        (found,) = (await client.get("/v2/models/stub-classify/stats")).json()["model_stats"]
        every = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert found["inference_count"] == 3
    assert 2 <= found["execution_count"] <= 3
    assert {one["name"]: one["inference_count"] for one in every} == {
        "stub-classify": 3,
        "stub-detect": 0,
        "stub-segment": 0,
    }


async def test_the_classes_are_in_the_configuration(client: httpx.AsyncClient) -> None:
    config = (await client.get("/v2/models/stub-detect/config")).json()
    names = json.loads(config["parameters"]["class_names"]["string_value"])
    assert names == ["dark", "red", "green", "blue", "light"]


def test_paths() -> None:
    assert task_of("/v2/models/a/infer", tuple) is None
    assert [
        path
        for path in (
            "/v2",
            "/v2/health/ready",
            "/v2/models/ready",
            "/v2/models/a/ready",
            "/v2/models/a/versions/1/ready",
            "/v2/models/a/versions/ready",
            "/v2/models/a/infer",
        )
        if needs_key(path)
    ] == ["/v2/models/ready", "/v2/models/a/versions/ready", "/v2/models/a/infer"]


def test_noise_is_lossless() -> None:
    """What the comparison with files rests on."""
    again = Image.open(io.BytesIO(encode(Image.fromarray(NOISE[0]), "PNG")))
    np.testing.assert_array_equal(np.asarray(again), NOISE[0])
