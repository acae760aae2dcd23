"""Answers of the service, and whether two of them say the same."""

import base64
import io
from dataclasses import dataclass
from typing import Any, Final

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image

from loadtests.generator.payloads import Payload


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two answers to one picture may be apart.

    Attributes:
        score: of scores between 0 and 1.
        box_px: of the edges of boxes, pixels.
        pixels: share of a label map whose class differs.
        detections: share of the objects that only one of the two has.
    """

    score: float
    box_px: float
    pixels: float
    detections: float


# docs/numerics.md, "one image alone or in a batch", and one unit of the last digit of the answers:
# 6 digits of scores, 3 of pixels
FLOAT32: Final = Tolerance(score=1.2e-5, box_px=2.1e-3, pixels=1e-5, detections=0.0)
# half precision rounds a thousand times more coarsely
HALF: Final = Tolerance(score=5e-3, box_px=0.5, pixels=5e-3, detections=0.1)


def ask(url: str, payload: Payload) -> Any:
    """The answer to one request that is sent alone.

    Raises:
        httpx.HTTPError: no answer, or none with 200.
    """
    response = httpx.post(
        f"{url}{payload.target}",
        content=payload.body,
        headers={"Content-Type": payload.content_type},
        timeout=120,
    )
    return orjson.loads(response.raise_for_status().content)


def differences(alone: Any, other: Any, tolerance: Tolerance) -> list[str]:
    """What of two answers to one picture is further apart than allowed; empty: the same."""
    if alone.get("label_map") is not None or other.get("label_map") is not None:
        return _label_map_differences(alone, other, tolerance)
    ours, theirs = alone["predictions"], other["predictions"]
    if ours and "box" in ours[0]:
        return _detection_differences(ours, theirs, tolerance)
    scores = {one["class_id"]: one["score"] for one in ours}
    found = []
    for one in theirs:
        # a class that one answer does not list is below all those it does
        wanted = scores.get(one["class_id"], min(scores.values(), default=0.0))
        if abs(one["score"] - wanted) > tolerance.score:
            found.append(f"class {one['class_id']}: score {one['score']}, alone {wanted}")
    return found


def _label_map_differences(alone: Any, other: Any, tolerance: Tolerance) -> list[str]:
    ours, theirs = _label_map(alone), _label_map(other)
    if ours.shape != theirs.shape:
        return [f"label map of {theirs.shape}, alone of {ours.shape}"]
    share = float((ours != theirs).mean())
    return [f"{share:.2%} of the pixels differ"] if share > tolerance.pixels else []


def _label_map(answer: Any) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(answer["label_map"])), formats=("PNG",)) as image:
        return np.asarray(image)


def _detection_differences(ours: Any, theirs: Any, tolerance: Tolerance) -> list[str]:
    left = list(theirs)
    lost = []
    for one in ours:
        match = next((other for other in left if _is_same_object(one, other, tolerance)), None)
        if match is None:
            lost.append(f"{one['label']} {one['score']:.4f} {one['box']} not found again")
        else:
            left.remove(match)
    lost += [f"{one['label']} {one['score']:.4f} {one['box']} not found alone" for one in left]
    allowed = tolerance.detections * 2 * max(1, len(ours))
    return lost if len(lost) > allowed else []


def _is_same_object(one: Any, other: Any, tolerance: Tolerance) -> bool:
    return (
        one["class_id"] == other["class_id"]
        and abs(one["score"] - other["score"]) <= tolerance.score
        and all(abs(one["box"][k] - other["box"][k]) <= tolerance.box_px for k in one["box"])
    )
