"""Infer requests of the Open Inference Protocol, as bytes."""

import json
import struct
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

LENGTH = "Inference-Header-Content-Length"


def elements(files: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(one)) + one for one in files)


def image_request(*files: bytes, **members: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with encoded pictures."""
    return _request("image", "BYTES", [len(files)], elements(files), members)


def pixel_request(pixels: NDArray[np.uint8], **members: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with (N, H, W, 3) pixels."""
    return _request("pixels", "UINT8", list(pixels.shape), pixels.tobytes(), members)


def _request(
    name: str, datatype: str, shape: list[int], data: bytes, members: dict[str, Any]
) -> tuple[bytes, dict[str, str]]:
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], **members}).encode()
    return head + data, {LENGTH: str(len(head))}


async def infer(
    client: httpx.AsyncClient, task: str, request: tuple[bytes, dict[str, str]], **headers: str
) -> httpx.Response:
    body, own = request
    return await client.post(
        f"/v2/models/stub-{task}/infer", content=body, headers={**own, **headers}
    )


def outputs_of(response: httpx.Response) -> dict[str, Any]:
    """Name of an output -> nested lists, of a JSON answer."""
    assert response.status_code == 200, response.text
    return {
        one["name"]: np.array(one["data"], dtype=object).reshape(one["shape"]).tolist()
        for one in response.json()["outputs"]
    }
