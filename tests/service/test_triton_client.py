"""Triton's own client, unmodified, against the real service in both forms."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("tritonclient.http", reason="the client under test")

import tritonclient.http as triton
from pycocotools import mask as coco_mask
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from tests.service.pictures import encode, jpeg, photo
from tests.service.processes import ServiceProcess, service_process
from tests.service.v2 import image_request, pixel_request

KEY = "long-enough-key"
NOISE = np.random.default_rng(1).integers(0, 256, (2, 60, 80, 3), np.uint8)


@pytest.fixture(scope="module", params=["0", "1"], ids=["alone", "fronts"])
def service(request: pytest.FixtureRequest) -> Iterator[ServiceProcess]:
    with service_process(frontends=request.param, log__level="warning") as running:
        yield running


@pytest.fixture(scope="module")
def session(service: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as own:
        yield own


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[Any]:
    with triton.InferenceServerClient(service.url.removeprefix("http://"), concurrency=4) as own:
        yield own


def files(*content: bytes) -> Any:
    tensor = triton.InferInput("image", [len(content)], "BYTES")
    return tensor.set_data_from_numpy(np.array(content, dtype=np.object_))


def pixels(array: Any, *, binary: bool = True) -> Any:
    tensor = triton.InferInput("pixels", list(array.shape), "UINT8")
    return tensor.set_data_from_numpy(array, binary_data=binary)


def test_discovery(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("stub-detect")
    assert client.is_model_ready("stub-detect", "1")
    assert not client.is_model_ready("stub-detect", "2")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "smserve"
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    index = client.get_model_repository_index()
    assert [one["name"] for one in index] == ["stub-classify", "stub-detect", "stub-segment"]
    metadata = client.get_model_metadata("stub-segment", "1")
    assert metadata["outputs"] == [
        {"name": "label_map", "datatype": "UINT8", "shape": [-1, -1, -1]}
    ]
    assert client.get_model_config("stub-segment")["name"] == "stub-segment"


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_classify(client: Any, coding: str | None, binary: bool) -> None:
    names = ("scores", "class_ids", "labels")
    found = client.infer(
        "stub-classify",
        [files(jpeg(), jpeg(colour=(0, 0, 255)))],
        outputs=[triton.InferRequestedOutput(name, binary_data=binary) for name in names],
        request_id="abc",
        priority=1,
        timeout=5_000_000,
        parameters={"top_k": 2},
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert found.get_response()["id"] == "abc"
    first = [
        one if isinstance(one, str) else one.decode() for one in found.as_numpy("labels")[:, 0]
    ]
    assert first == ["red", "blue"]
    assert found.as_numpy("class_ids")[:, 0].tolist() == [1, 3]
    scores = found.as_numpy("scores")
    assert scores.shape == (2, 2)
    assert (scores[:, 0] > scores[:, 1]).all()


def test_classification_extension(client: Any) -> None:
    wanted = triton.InferRequestedOutput("scores", class_count=3)
    found = client.infer("stub-classify", [files(jpeg())], outputs=[wanted]).as_numpy("scores")
    assert found.shape == (1, 3)
    assert found[0, 0].endswith(b":1:red")


@pytest.mark.parametrize("binary", [True, False])
def test_detect_pixels(client: Any, binary: bool) -> None:
    found = client.infer("stub-detect", [pixels(NOISE, binary=binary)])
    same = client.infer("stub-detect", [files(*(encode(Image.fromarray(n), "PNG") for n in NOISE))])
    for output in found.get_response()["outputs"]:
        name = output["name"]
        np.testing.assert_array_equal(found.as_numpy(name), same.as_numpy(name))
    assert found.as_numpy("num_detections").tolist() == [3, 3]
    (height, width), counts = found.as_numpy("image_sizes")[0], found.as_numpy("masks")[0, 0]
    mask = coco_mask.decode({"size": [int(height), int(width)], "counts": counts})
    rows, columns = np.nonzero(mask)
    left, top, right, bottom = found.as_numpy("boxes")[0, 0]
    assert mask.shape == (60, 80)
    assert left - 1 <= columns.min() <= columns.max() <= right + 1
    assert top - 1 <= rows.min() <= rows.max() <= bottom + 1


def test_segment_with_compression(client: Any) -> None:
    found = client.infer(
        "stub-segment", [pixels(NOISE)], response_compression_algorithm="gzip"
    ).as_numpy("label_map")
    assert (found.shape, found.dtype) == ((2, 60, 80), np.uint8)
    assert sorted(set(found[0, 0].tolist())) == [0, 1, 2, 3, 4, 5]


def test_asynchronous_requests(client: Any) -> None:
    calls = [client.async_infer("stub-classify", [files(jpeg())]) for _ in range(8)]
    assert {call.get_result().as_numpy("labels")[0, 0] for call in calls} == {b"red"}


@pytest.mark.parametrize(
    ("model", "tensor", "status", "text"),
    [
        ("nobody", files(jpeg()), "404", "there is no model 'nobody'; served: stub-classify"),
        ("stub-detect", files(b"junk"), "422", "not a readable image"),
        ("stub-detect", files(b"%PDF-1.7"), "415", "PDF is not served"),
        ("stub-detect", pixels(NOISE[0]), "400", "expected [-1, -1, -1, 3]"),
        ("stub-segment", files(jpeg(), jpeg(8, 8)), "400", "must have one size"),
    ],
)
def test_errors_have_our_text_and_status(
    client: Any, model: str, tensor: Any, status: str, text: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor])
    assert caught.value.status() == status
    assert text in caught.value.message()


def test_what_is_not_offered(client: Any) -> None:
    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
        lambda: client.load_model("stub-detect"),
        lambda: client.unload_model("stub-detect"),
    ):
        with pytest.raises(InferenceServerException, match=r"not offered|operator"):
            call()
    shared = triton.InferInput("image", [1], "BYTES").set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="shared memory is not offered"):
        client.infer("stub-detect", [shared])


def test_statistics(client: Any) -> None:
    before = client.get_inference_statistics("stub-segment")["model_stats"][0]["inference_count"]
    client.infer("stub-segment", [pixels(NOISE)])
    # with front ends it is the supervisor who adds up, once a second
    for _ in range(100):
        (found,) = client.get_inference_statistics("stub-segment")["model_stats"]
        if found["inference_count"] == before + 2:
            break
    assert found["inference_count"] == before + 2


def test_refusals_and_keys() -> None:
    settings = {"api_keys": KEY, "queue__max_images": "1", "stub__batch_ms": "50"}
    with service_process(log__level="error", **settings) as service:
        url = service.url.removeprefix("http://")
        with triton.InferenceServerClient(url) as client:
            with pytest.raises(InferenceServerException, match="valid API key"):
                client.infer("stub-detect", [files(jpeg())])
            headers = {"X-API-Key": KEY}
            assert client.infer("stub-detect", [files(jpeg())], headers=headers)
            with pytest.raises(InferenceServerException, match="retry in") as caught:
                client.infer("stub-detect", [files(jpeg(), jpeg())], headers=headers)
            assert caught.value.status() == "429"
            # the plugin of the client's own sends another scheme, which is not offered
            client.register_plugin(BasicAuth("user", KEY))
            with pytest.raises(InferenceServerException, match="valid API key"):
                client.infer("stub-detect", [files(jpeg())])


SEEDS = [
    image_request(photo(48, 32)),
    image_request(jpeg(16, 16), jpeg(16, 16), parameters={"binary_data_output": True}),
    pixel_request(NOISE[:, :16, :16], outputs=[{"name": "labels"}], id="a"),
]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A request with some bytes changed or missing, and headers that may lie."""
    body, headers = SEEDS[draw(st.integers(0, len(SEEDS) - 1))]
    content, sent = bytearray(body), dict(headers)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(0, min(len(content) - 1, 400))))
        match draw(st.sampled_from(["flip", "cut", "end", "digit", "length", "coding"])):
            case "flip" if content:
                content[position] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[position : position + draw(st.integers(1, 20))]
            case "end":
                del content[position:]
            case "digit":
                content[position : position + 1] = draw(st.sampled_from([b"9", b"-", b"1e9", b"["]))
            case "length":
                (name,) = headers
                sent[name] = draw(st.sampled_from(["0", "1", "-5", "999999999999", "1.5", "x"]))
            case "coding":
                sent["Content-Encoding"] = draw(st.sampled_from(["gzip", "deflate", "br"]))
    return bytes(content), sent


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(request=damaged(), model=st.sampled_from(["stub-classify", "stub-detect", "stub-segment"]))
def test_damaged_requests_are_answered_or_refused(
    session: httpx.Client, request: tuple[bytes, dict[str, str]], model: str
) -> None:
    body, headers = request
    response = session.post(f"/v2/models/{model}/infer", content=body, headers=headers)
    assert response.status_code in {200, 400, 413, 415, 422}, response.text[:500]
    if response.status_code != 200:
        assert response.json()["error"]
