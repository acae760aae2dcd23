"""What infer requests may look like, and that every other one is refused with a reason."""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.base import Picture
from service.errors import BodyTooLargeError, ServiceError
from service.open_inference.compression import compress, decompress
from service.open_inference.pictures import pictures_of
from service.open_inference.request import MAX_JSON_VALUES, parse_request

QUIET = settings(max_examples=300, deadline=None, derandomize=True)
FILE = b"\xff\xd8 not a picture, but nobody looks here \0"


def request(*inputs: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), **members}


def image(**members: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [1], "datatype": "BYTES", **members}


def pixels(*shape: int, **members: Any) -> dict[str, Any]:
    return {"name": "pixels", "shape": list(shape), "datatype": "UINT8", **members}


def binary(content: Mapping[str, Any], *tails: bytes) -> tuple[bytes, str]:
    head = json.dumps(content).encode()
    return head + b"".join(tails), str(len(head))


def element(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def read(content: Any, *tails: bytes, max_images: int = 4) -> tuple[Picture, ...]:
    """The pictures of a request; with tails it has binary data."""
    body, length = binary(content, *tails)
    return pictures_of(parse_request(body, length), max_images=max_images)


def test_files_as_binary_data() -> None:
    data = element(FILE) + element(b"")
    content = request(image(shape=[2], parameters={"binary_data_size": len(data)}))
    assert read(content, data) == (FILE, b"")


def test_files_as_base64() -> None:
    assert read(request(image(data=["AAEC"]))) == (b"\0\1\2",)


def test_pixels_in_all_three_forms() -> None:
    expected = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    size = {"binary_data_size": expected.size}
    for found in (
        read(request(pixels(2, 2, 3, 3, parameters=size)), expected.tobytes()),
        read(request(pixels(2, 2, 3, 3, data=expected.tolist()))),
        read(request(pixels(2, 2, 3, 3, data=expected.ravel().tolist()))),
    ):
        np.testing.assert_array_equal(np.stack([np.asarray(one) for one in found]), expected)
        assert all(isinstance(one, np.ndarray) and one.dtype == np.uint8 for one in found)


def test_a_body_without_json_is_the_picture() -> None:
    parsed = parse_request(FILE, "0")
    assert (parsed.inputs, parsed.binary) == ((), True)


def test_what_is_said_about_outputs_is_kept() -> None:
    content = request(
        image(data=[""]),
        id="7",
        parameters={"binary_data_output": True, "top_k": 3},
        outputs=[
            {"name": "scores", "parameters": {"binary_data": False, "classification": 2}},
            {"name": "labels"},
        ],
    )
    parsed = parse_request(json.dumps(content).encode(), None)
    assert parsed.request_id == "7"
    assert parsed.binary is True
    assert parsed.parameters == {"top_k": 3}
    scores, labels = parsed.outputs
    assert (scores.name, scores.binary, scores.classes) == ("scores", False, 2)
    assert (labels.name, labels.binary, labels.classes) == ("labels", None, 0)


@pytest.mark.parametrize(
    ("content", "tail", "wanted"),
    [
        ([], b"", "expected {"),
        ({}, b"", "inputs is missing"),
        (request(), b"", "inputs is empty"),
        (request(*[image()] * 17), b"", "short list"),
        ({"inputs": [3]}, b"", "list of objects"),
        (request({"shape": [1]}), b"", "name in inputs is missing"),
        (request(image(data=[]), image(data=[])), b"", "twice"),
        (request(image(data=[""]), pixels(1, 1, 1, 3, data=[0, 0, 0])), b"", "expected one"),
        (request(image(name="input0", data=[""])), b"", "'image' or 'pixels'"),
        (request(image()), b"", "data of input 'image' is missing"),
        (request(image(data="AAEC")), b"", "expected a list"),
        (request(image(data=[3])), b"", "not a string"),
        (request(image(data=["!"])), b"", "not base64"),
        (request(image(data=["https://host/a.jpg"])), b"", "not fetched"),
        (request(image(data=["", ""])), b"", "its shape says 1"),
        (request(image(datatype="FP32", data=[""])), b"", "expected BYTES"),
        (request(image(datatype=None, data=[""])), b"", "datatype of input 'image' is missing"),
        (request(image(shape=[], data=[])), b"", "expected [-1]"),
        (request(image(shape=[1, 1], data=[""])), b"", "expected [-1]"),
        (request(image(shape=[0], data=[])), b"", "no picture"),
        (request(image(shape=[-1], data=[])), b"", "whole numbers"),
        (request(image(shape=[1.0], data=[])), b"", "whole numbers"),
        (request(image(shape=[True], data=[])), b"", "whole numbers"),
        (request(image(shape=[2**64], data=[])), b"", "whole numbers"),
        (request(image(shape="1", data=[])), b"", "expected a list"),
        (request(image(data=[""], parameters=[])), b"", "expected an object"),
        (request(image(data=[""], parameters={"binary_data_size": 0})), b"", "both kinds"),
        (request(image(data=[""], parameters={"shared_memory_region": "a"})), b"", "shared mem"),
        (request(image(data=[""], parameters={"content_type": "a"})), b"", "'content_type'"),
        (request(image(parameters={"binary_data_size": -1})), b"", "a number of bytes"),
        (request(image(parameters={"binary_data_size": 4.0})), b"1234", "a number of bytes"),
        (request(image(parameters={"binary_data_size": True})), b"1", "a number of bytes"),
        (request(image(parameters={"binary_data_size": 9})), b"1234", "4 bytes are left"),
        (request(image(parameters={"binary_data_size": 4})), element(b"12"), "belong to no input"),
        (request(image(data=["AAEC"])), b"\0", "belong to no input"),
        (request(image(parameters={"binary_data_size": 3})), b"123", "inside the length"),
        (request(image(parameters={"binary_data_size": 6})), b"\3\0\0\0ab", "announces 3"),
        (request(image(parameters={"binary_data_size": 4})), b"\xff" * 4, "announces 4294967295"),
        (request(image(parameters={"binary_data_size": 8})), b"\0" * 8, "more bytes than"),
        (request(image(parameters={"binary_data_size": 0})), b"", "has 0 elements"),
        (request(pixels(2, 2, 3, data=[])), b"", "expected [-1, -1, -1, 3]"),
        (request(pixels(1, 2, 2, 4, data=[0] * 16)), b"", "expected [-1, -1, -1, 3]"),
        (request(pixels(1, 0, 2, 3, data=[])), b"", "no picture"),
        (request(pixels(1, 2**62, 2**62, 3, data=[])), b"", "data of input 'pixels' has shape"),
        (request(pixels(1, 2**62, 4, 3, parameters={"binary_data_size": 1})), b"a", "1 bytes"),
        (request(pixels(1, 1, 1, 3, parameters={"binary_data_size": 2})), b"ab", "says 3"),
        (request(pixels(1, 1, 1, 3, data=[0, 0])), b"", "all of its 3 values"),
        (request(pixels(1, 1, 1, 3, data=[0, 0, 256])), b"", "0..255"),
        (request(pixels(1, 1, 1, 3, data=[0, 0, -1])), b"", "0..255"),
        (request(pixels(1, 1, 1, 3, data=[0, 0, 2**70])), b"", "0..255"),
        (request(pixels(1, 1, 1, 3, data=[0, 0, 0.5])), b"", "0..255"),
        (request(pixels(1, 1, 1, 3, data=[0, 0, None])), b"", "0..255"),
        (request(pixels(1, 1, 1, 3, data=["0", "0", "0"])), b"", "0..255"),
        (request(pixels(1, 1, 1, 3, data=[True, True, False])), b"", "0..255"),
        (request(pixels(1, 1, 1, 3, data=[[0, 0], [0]])), b"", "no regular array"),
        (request(pixels(1, 1, 1, 3, data=[{}, {}, {}])), b"", "0..255"),
        (request(image(data=[""]), outputs={}), b"", "outputs is an object"),
        (request(image(data=[""]), outputs=[{"name": "a"}] * 2), b"", "twice"),
        (request(image(data=[""]), outputs=[{}]), b"", "name in outputs"),
        (
            request(image(data=[""]), outputs=[{"name": "a", "parameters": {"binary_data": 1}}]),
            b"",
            "true or false",
        ),
        (
            request(
                image(data=[""]), outputs=[{"name": "a", "parameters": {"classification": -1}}]
            ),
            b"",
            "expected a number",
        ),
        (
            request(image(data=[""]), outputs=[{"name": "a", "parameters": {"kind": 1}}]),
            b"",
            "unknown parameter 'kind'",
        ),
        (request(image(data=[""]), parameters=3), b"", "parameters is 3"),
        (request(image(data=[""]), parameters={"binary_data_output": "y"}), b"", "true or false"),
        (request(image(data=[""]), id=3), b"", "id is 3"),
        (request(image(data=[""]), id="a" * 1001), b"", "1000 characters"),
    ],
)
def test_a_malformed_request_is_a_clear_400(content: Any, tail: bytes, wanted: str) -> None:
    with pytest.raises(ServiceError) as caught:
        read(content, tail)
    assert caught.value.status == 400
    assert wanted in caught.value.detail


def test_too_many_pictures_are_refused_before_they_are_read() -> None:
    with pytest.raises(ServiceError, match="limit 4") as caught:
        read(request(image(shape=[10**12], parameters={"binary_data_size": 0})))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("body", "length", "wanted"),
    [
        (b"{}", "3", "the body has 2 bytes"),
        (b"{}", "-1", "is '-1'"),
        (b"{}", "1e1", "is '1e1'"),
        (b"{}", "\u0661", "is '"),
        (b"{}", "9" * 30, "is '999"),
        (b"{}", "", "is ''"),
        (b'{"inputs": []}', "13", "not JSON"),
        (b"", None, "not JSON"),
        (b"[" * 2000, None, "not JSON"),
        (b'{"id": NaN}', None, "not JSON"),
        (b'{"id": "\xff"}', None, "not JSON"),
        (b"[" + b"0," * MAX_JSON_VALUES + b"0]", None, "send large tensors as binary"),
    ],
    ids=range(12),
)
def test_what_is_not_json_is_a_clear_400(body: bytes, length: str | None, wanted: str) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_request(body, length)
    assert caught.value.status == 400
    assert wanted in caught.value.detail


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
members = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["image", "pixels"]) | json_values,
        "shape": st.lists(st.integers(-1, 4) | st.sampled_from([3, 2**63]), max_size=5)
        | json_values,
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"]) | json_values,
        "data": st.lists(st.integers(-1, 256) | st.text(max_size=4), max_size=12) | json_values,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-2, 40) | json_values}
        )
        | json_values,
    },
)
documents = (
    st.fixed_dictionaries(
        {"inputs": st.lists(members, max_size=3) | json_values},
        optional={"outputs": json_values, "parameters": json_values, "id": json_values},
    )
    | json_values
)


@QUIET
@given(content=documents, tail=st.binary(max_size=40), lie=st.integers(-3, 3) | st.none())
def test_any_document_is_read_or_refused(content: Any, tail: bytes, lie: int | None) -> None:
    head = json.dumps(content).encode()
    length = None if lie is None else str(len(head) + lie)
    refused: ServiceError | None = None
    pictures: tuple[Picture, ...] = ()
    try:
        parsed = parse_request(head + tail, length)
        if parsed.inputs:
            pictures = pictures_of(parsed, max_images=4)
    except ServiceError as error:
        refused = error
    assert refused is None or (refused.status in (400, 413) and refused.detail)
    assert all(isinstance(one, bytes) or one.shape[2] == 3 for one in pictures)


@QUIET
@given(content=st.binary(max_size=300), coding=st.sampled_from(["gzip", "deflate"]))
def test_compression_both_ways(content: bytes, coding: str) -> None:
    content *= 10
    packed, used = compress(content, coding)
    assert used == (coding if len(content) >= 1024 else None)
    if used is not None:
        assert decompress(packed, coding, max_bytes=len(content)) == content
        with pytest.raises(BodyTooLargeError):
            decompress(packed, coding, max_bytes=len(content) - 1)
        for damaged in (packed[:-1], packed + b"x", b"x" + packed):
            with pytest.raises(ServiceError):
                decompress(damaged, coding, max_bytes=10_000)


@QUIET
@given(content=st.binary(max_size=60), coding=st.sampled_from(["gzip", "deflate", "br", ""]))
def test_any_bytes_unpack_or_are_refused(content: bytes, coding: str) -> None:
    refused: ServiceError | None = None
    try:
        decompress(content, coding, max_bytes=1000)
    except ServiceError as error:
        refused = error
    assert refused is None or refused.status in (400, 413)


def test_a_bomb_stops_at_the_limit() -> None:
    packed = zlib.compress(b"\0" * 50_000_000)
    with pytest.raises(BodyTooLargeError, match="1000 bytes"):
        decompress(packed, "deflate", max_bytes=1000)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip;q=0", None),
        ("br", None),
        ("", None),
    ],
)
def test_the_client_chooses_the_coding(accept: str, coding: str | None) -> None:
    assert compress(b"a" * 5000, accept)[1] == coding
