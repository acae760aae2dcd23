"""The task routes over HTTP: body forms, parameters, forms of the answer."""

import asyncio
import io
import re
from base64 import b64decode, b64encode
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from model.config import TaskName
from service.schemas import (
    ClassifyAnswer,
    ClassifyBody,
    DetectAnswer,
    DetectBody,
    SegmentAnswer,
    SegmentBody,
)
from tests.service.conftest import Start
from tests.service.pictures import jpeg, photo, png
from tests.service.running import until

pytestmark = pytest.mark.anyio

TASKS = [task.value for task in TaskName]
SCHEMAS = {"classify": ClassifyAnswer, "detect": DetectAnswer, "segment": SegmentAnswer}
BODIES: dict[str, TypeAdapter[Any]] = {
    "classify": TypeAdapter(ClassifyBody),
    "detect": TypeAdapter(DetectBody),
    "segment": TypeAdapter(SegmentBody),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "content_type",
    [None, "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", "x"],
)
async def test_raw_bytes_are_an_image_whatever_the_type_says(
    client: httpx.AsyncClient, task: str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await client.post(f"/{task}", content=jpeg(), headers=headers)
    assert response.status_code == 200, response.text
    answer = SCHEMAS[task].model_validate_json(response.content)
    assert answer.model.name == f"stub-{task}"
    assert answer.model.demo is True
    assert (answer.image.width, answer.image.height) == (64, 48)
    assert set(answer.timings) == {"read", "decode", "queue", "infer", "postprocess"}


async def test_the_answers_are_those_of_the_picture(client: httpx.AsyncClient) -> None:
    red = (await client.post("/classify", content=jpeg(colour=(230, 10, 10)))).json()
    blue = (await client.post("/classify", content=jpeg(colour=(10, 10, 230)))).json()
    assert red["predictions"][0]["label"] == "red"
    assert blue["predictions"][0]["label"] == "blue"
    found = (await client.post("/detect", content=jpeg(200, 100))).json()["predictions"]
    box = found[0]["box"]
    assert box == {"xmin": 20.0, "ymin": 20.0, "xmax": 100.0, "ymax": 80.0}
    assert found[0]["mask"]["size"] == [100, 200]
    areas = (await client.post("/segment", content=jpeg(60, 10))).json()
    assert [area["pixels"] for area in areas["predictions"]] == [100] * 6
    labels = np.asarray(Image.open(io.BytesIO(b64decode(areas["label_map"]))))
    assert labels.tolist() == [[column // 10 for column in range(60)]] * 10


@pytest.mark.parametrize("task", TASKS)
async def test_several_files_give_a_list_in_order(client: httpx.AsyncClient, task: str) -> None:
    files = [("image", (f"{n}.jpg", jpeg(20 + n, 30), "image/jpeg")) for n in range(5)]
    files[2] = ("image", ("notes.txt", b"not a picture", "text/plain"))
    response = await client.post(f"/{task}", files=files)
    assert response.status_code == 200
    answers = response.json()
    BODIES[task].validate_python(answers)
    assert [one.get("image", {}).get("width") for one in answers] == [20, 21, None, 23, 24]
    assert answers[2]["status"] == 422
    assert answers[2]["code"] == "invalid_image"
    assert answers[2]["request_id"] == response.headers["x-request-id"]


async def test_one_file_gives_one_answer(client: httpx.AsyncClient) -> None:
    response = await client.post("/classify", files={"image": ("a.png", png())})
    assert response.json()["predictions"][0]["label"] == "red"


@pytest.mark.parametrize("task", TASKS)
async def test_hugging_face_json(client: httpx.AsyncClient, task: str) -> None:
    body = {"inputs": b64encode(jpeg()).decode()}
    response = await client.post(f"/{task}", json=body)
    assert response.status_code == 200
    answers = response.json()
    assert isinstance(answers, list)
    BODIES[task].validate_python(answers)
    same = await client.post(f"/hf/{task}", content=jpeg())
    assert same.json() == answers
    by_query = await client.post(f"/{task}", params={"format": "hf"}, content=jpeg())
    assert by_query.json() == answers
    native = await client.post(f"/{task}", params={"format": "native"}, json=body)
    SCHEMAS[task].model_validate_json(native.content)


async def test_hugging_face_parameters(client: httpx.AsyncClient) -> None:
    inputs = b64encode(jpeg()).decode()

    async def post(task: str, **parameters: Any) -> httpx.Response:
        return await client.post(f"/{task}", json={"inputs": inputs, "parameters": parameters})

    assert len((await post("classify", top_k=2)).json()) == 2
    assert len((await post("detect", threshold=0.8)).json()) == 1
    assert (await post("classify", function_to_apply="softmax")).status_code == 200
    for task, parameters in [
        ("classify", {"function_to_apply": "sigmoid"}),
        ("classify", {"topk": 2}),
        ("detect", {"threshold": 2}),
        ("segment", {"subtask": "panoptic"}),
    ]:
        response = await post(task, **parameters)
        assert response.status_code == 422, (task, parameters)
        assert next(iter(parameters)) in response.json()["detail"]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"{", "not JSON"),
        (b"[]", "expected"),
        (b"{}", "expected"),
        (b'{"inputs": 3}', "int"),
        (b'{"inputs": "!!"}', "not base64"),
        (b'{"inputs": "http://host/a.jpg"}', "not fetched"),
        (b'{"inputs": "", "options": {}}', "options"),
        (b"[" * 900, "not JSON"),
        (b'{"inputs": [' + b"[]," * 1000, "at most 1000"),
    ],
)
async def test_malformed_json_is_a_clear_400(
    client: httpx.AsyncClient, content: bytes, wanted: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/classify", content=content, headers=headers)
    assert response.status_code == 400
    assert wanted in response.json()["detail"]


async def test_top_k_threshold_and_classes(client: httpx.AsyncClient) -> None:
    async def labels(task: str, **params: Any) -> list[str]:
        response = await client.post(f"/{task}", params=params, content=jpeg())
        assert response.status_code == 200, response.text
        return [one["label"] for one in response.json()["predictions"]]

    assert len(await labels("classify", top_k=3)) == 3
    assert await labels("classify", threshold=0.5) == ["red"]
    assert await labels("classify", classes="Blue,0", top_k=5) == ["blue", "dark"]
    assert await labels("detect") == ["red", "green", "blue"]
    assert await labels("detect", threshold=0.5) == ["red", "green"]
    assert await labels("detect", max_detections=1) == ["red"]
    assert await labels("detect", classes="green") == ["green"]
    assert await labels("segment", classes="green,blue") == ["green", "blue"]


@pytest.mark.parametrize(
    ("masks", "member"), [("rle", "counts"), ("polygon", "polygons"), ("png", "png")]
)
async def test_forms_of_masks(client: httpx.AsyncClient, masks: str, member: str) -> None:
    response = await client.post("/detect", params={"masks": masks}, content=jpeg())
    DetectAnswer.model_validate_json(response.content)
    assert all(member in one["mask"] for one in response.json()["predictions"])


async def test_masks_none(client: httpx.AsyncClient) -> None:
    response = await client.post("/detect", params={"masks": "none"}, content=jpeg())
    assert all("mask" not in one for one in response.json()["predictions"])
    response = await client.post("/segment", params={"masks": "none"}, content=jpeg())
    assert "label_map" not in response.json()
    SegmentAnswer.model_validate_json(response.content)


@pytest.mark.parametrize("task", ["detect", "segment"])
async def test_coco_results(client: httpx.AsyncClient, task: str) -> None:
    response = await client.post(f"/{task}", params={"format": "coco"}, content=jpeg())
    assert all("category_id" in entry for entry in response.json())
    BODIES[task].validate_python(response.json())


@pytest.mark.parametrize(
    ("task", "params"),
    [
        ("classify", {"topk": "3"}),
        ("classify", {"top_k": "0"}),
        ("classify", {"top_k": "many"}),
        ("classify", {"format": "coco"}),
        ("classify", {"masks": "rle"}),
        ("detect", {"threshold": "1.5"}),
        ("detect", {"threshold": "nan"}),
        ("detect", {"nms_iou": "-1"}),
        ("detect", {"max_detections": "100000"}),
        ("detect", {"masks": "bitmap"}),
        ("detect", {"classes": "unicorn"}),
        ("detect", {"classes": "99"}),
        ("segment", {"threshold": "0.5"}),
        ("segment", {"output": "movie"}),
        ("segment", {"timeout_ms": "0"}),
        ("segment", {"timeout_ms": "99999999"}),
    ],
)
async def test_bad_parameters_are_422_and_named(
    client: httpx.AsyncClient, task: str, params: dict[str, str]
) -> None:
    response = await client.post(f"/{task}", params=params, content=jpeg())
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["code"] == "invalid_parameter"
    name = next(iter(params))
    assert name in problem["detail"] or (name == "timeout_ms" and "timeout" in problem["detail"])


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1e3", "9" * 30, "999999999"])
async def test_a_bad_timeout_header_is_422(client: httpx.AsyncClient, value: str) -> None:
    headers = {"X-Request-Timeout-Ms": value}
    response = await client.post("/classify", content=jpeg(), headers=headers)
    assert response.status_code == 422
    assert "imeout" in response.json()["detail"]


async def test_models_are_chosen_by_name(client: httpx.AsyncClient) -> None:
    named = await client.post("/detect", params={"model": "stub-detect"}, content=jpeg())
    assert named.json()["model"]["name"] == "stub-detect"
    for name in ("stub-classify", "nothing"):
        response = await client.post("/detect", params={"model": name}, content=jpeg())
        assert response.status_code == 404
        assert response.json()["code"] == "model_not_found"
        assert "stub-detect" in response.json()["detail"]


@pytest.mark.parametrize("task", TASKS)
async def test_an_accept_header_for_png_gives_the_picture(
    client: httpx.AsyncClient, task: str
) -> None:
    content = photo(120, 90)
    for request in ({"headers": {"Accept": "image/png"}}, {"params": {"output": "overlay"}}):
        response = await client.post(f"/{task}", content=content, **request)  # type: ignore[arg-type]
        assert response.status_code == 200
        assert response.headers["content-type"] == "image/png"
        drawn = np.asarray(Image.open(io.BytesIO(response.content)).convert("RGB"))
        original = np.asarray(Image.open(io.BytesIO(content)))
        assert drawn.shape == original.shape
        assert (drawn != original).any()


async def test_label_maps_as_png(client: httpx.AsyncClient) -> None:
    response = await client.post("/segment", params={"output": "labels"}, content=jpeg(60, 10))
    image = Image.open(io.BytesIO(response.content))
    assert image.mode == "L"
    assert sorted(set(np.asarray(image).ravel().tolist())) == [0, 1, 2, 3, 4, 5]


async def test_several_images_cannot_be_one_picture(client: httpx.AsyncClient) -> None:
    files = [("image", jpeg()), ("image", jpeg())]
    response = await client.post("/detect", files=files, headers={"Accept": "image/png"})
    assert response.status_code == 406


async def test_a_browser_that_accepts_everything_gets_json(client: httpx.AsyncClient) -> None:
    accept = "text/html,application/xhtml+xml,image/webp,*/*;q=0.8"
    response = await client.post("/detect", content=jpeg(), headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"


async def test_every_answer_carries_timings_and_id(client: httpx.AsyncClient) -> None:
    good = await client.post("/classify", content=jpeg())
    stages = re.findall(r"([a-z]+);dur=[\d.]+", good.headers["server-timing"])
    assert stages == ["read", "decode", "queue", "infer", "postprocess", "encode", "total"]
    for response in (
        good,
        await client.post("/classify", content=b""),
        await client.get("/livez"),
        await client.get("/nothing"),
    ):
        assert "total;dur=" in response.headers["server-timing"]
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abc-1.2_3", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("ü", False)],
)
async def test_request_ids(client: httpx.AsyncClient, given: str, is_kept: bool) -> None:
    headers = {"X-Request-ID": given.encode("latin-1")}
    response = await client.post("/classify", content=b"x", headers=headers)  # type: ignore[arg-type]
    assert (response.headers["x-request-id"] == given) is is_kept
    assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_concurrent_images_share_batches(start: Start) -> None:
    async with start(pool_size=4, batch={"max_images": 16}) as running:
        with running.held_device() as release:
            posts = [
                asyncio.create_task(running.client.post("/classify", content=jpeg()))
                for _ in range(12)
            ]
            pipeline = running.core._batcher._pipeline
            queued = partial(running.metric, "smserve_queue_depth", task="classify")
            await until(lambda: queued() + sum(len(one.batch) for one in pipeline._flights) == 12)
            release()
            responses = await asyncio.gather(*posts)
        assert {response.status_code for response in responses} == {200}
        labels = {"task": "classify", "model": "stub-classify"}
        batches = running.metric("smserve_batches_total", **labels)
        images = running.metric("smserve_batch_size_images_sum", **labels)
        assert images == 12
        assert batches <= 6
