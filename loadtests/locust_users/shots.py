"""What users send, and the answer that is right for it."""

import io
import random
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from json import dumps
from typing import Final

from PIL import Image

from loadtests.generator.payloads import MULTIPART, Payload, multipart_body
from loadtests.locust_users.pictures import Picture

TASKS: Final = ("classify", "detect", "segment")
JSON: Final = "application/json"
PNG: Final = "image/png"
_PROBLEM: Final = "application/problem+json"
_DIFFERENT: Final = 100
_HIGH_PRIORITY_SHARE: Final = 0.1
_PICTURE_ANSWER_SHARE: Final = 0.05
# of requests with pictures: how they carry them
_FORMS: Final = {"raw": 0.7, "one file": 0.12, "several files": 0.08, "hf": 0.1}
_MOST_FILES: Final = 4
# a form with several photographs from a camera is rare, and takes a client's memory
_LARGEST_OF_SEVERAL: Final = 2.0
_QUERIES: Final[Mapping[str, Mapping[str, float]]] = {
    "classify": {"": 0.5, "top_k=1": 0.2, "top_k=3": 0.2, "threshold=0.2": 0.05, "format=hf": 0.05},
    "detect": {
        "": 0.4,
        "masks=none": 0.25,
        "masks=polygon&threshold=0.3": 0.1,
        "masks=png": 0.05,
        "threshold=0.5&max_detections=20": 0.15,
        "format=coco": 0.05,
    },
    "segment": {"": 0.6, "masks=none": 0.3, "format=coco": 0.1},
}
_HF_PARAMETERS: Final[Mapping[str, Mapping[str, object]]] = {
    "classify": {"top_k": 3},
    "detect": {"threshold": 0.5},
    "segment": {"subtask": "semantic"},
}
# more pixels than any sensible limit allows, in few bytes
_BOMB_SIDE: Final = 12_000


@dataclass(frozen=True, slots=True)
class Shot:
    """A request and its right answer.

    Attributes:
        headers: besides those that every request has.
        status: of the right answer.
        code: of the right problem document; empty for a success.
        media_type: of the right answer.
    """

    task: str
    payload: Payload
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    code: str = ""
    media_type: str = JSON

    @property
    def is_mistake(self) -> bool:
        """It is wrong on purpose."""
        return bool(self.code)


@dataclass(frozen=True, slots=True)
class Deck:
    """All requests that one run sends, by task: sensible ones and mistakes."""

    sensible: Mapping[str, Sequence[Shot]]
    mistakes: Mapping[str, Sequence[Shot]]

    def draw(self, rng: random.Random, mix: Mapping[str, float], mistake_share: float) -> Shot:
        """The next request.

        Args:
            mix: relative shares of the tasks.
            mistake_share: of requests that are wrong on purpose.
        """
        (task,) = rng.choices(list(mix), list(mix.values()))
        pile = self.mistakes if rng.random() < mistake_share else self.sensible
        return rng.choice(pile[task])


def build_deck(pictures: Sequence[Picture], seed: int = 0) -> Deck:
    """The same arguments make the same requests, in every process of a distributed run."""
    rng = random.Random(seed)  # noqa: S311 - load, not a secret
    return Deck(
        sensible={
            task: [_sensible(task, pictures, rng) for _ in range(_DIFFERENT)] for task in TASKS
        },
        mistakes={task: _mistakes(task, pictures) for task in TASKS},
    )


def _sensible(task: str, pictures: Sequence[Picture], rng: random.Random) -> Shot:
    (form,) = rng.choices(list(_FORMS), list(_FORMS.values()))
    (query,) = rng.choices(list(_QUERIES[task]), list(_QUERIES[task].values()))
    headers = {"X-Priority": "high"} if rng.random() < _HIGH_PRIORITY_SHARE else {}
    target = f"/{task}?{query}" if query else f"/{task}"
    picture = rng.choice(pictures)
    if form == "hf":
        return Shot(task, _hf_payload(task, picture), headers)
    if form == "several files":
        small = [one for one in pictures if one.megapixels < _LARGEST_OF_SEVERAL]
        files = [one.data for one in rng.choices(small, k=rng.randint(2, _MOST_FILES))]
        return Shot(task, _form_payload(target, files), headers)
    media_type = JSON
    if rng.random() < _PICTURE_ANSWER_SHARE:
        headers["Accept"] = media_type = PNG
    if form == "one file":
        payload = _form_payload(target, [picture.data])
    else:
        payload = Payload(target, picture.media_type, picture.data, 1)
    return Shot(task, payload, headers, media_type=media_type)


def _form_payload(target: str, files: Sequence[bytes]) -> Payload:
    return Payload(target, MULTIPART, multipart_body(files), len(files))


def _hf_payload(task: str, picture: Picture) -> Payload:
    content = {
        "inputs": b64encode(picture.data).decode("ascii"),
        "parameters": _HF_PARAMETERS[task],
    }
    return Payload(f"/hf/{task}", JSON, dumps(content).encode(), 1)


def _mistakes(task: str, pictures: Sequence[Picture]) -> list[Shot]:
    """What goes wrong in practice, one each."""
    good = next(one for one in pictures if one.format == "JPEG")
    half = good.data[: len(good.data) // 2]
    wrong = [
        (f"/{task}", good.media_type, half, 422, "invalid_image"),
        (f"/{task}", "image/png", _bomb(), 413, "image_too_large"),
        (f"/{task}?treshold=0.5", good.media_type, good.data, 422, "invalid_parameter"),
        (f"/{task}", "application/pdf", b"%PDF-1.7\n%no picture", 415, "unsupported_format"),
        (f"/{task}?model=no-such-model", good.media_type, good.data, 404, "model_not_found"),
        (f"/{task}", MULTIPART, multipart_body([good.data], "photo"), 400, "malformed_body"),
    ]
    return [
        Shot(task, Payload(target, kind, body, 0), {}, status, code, _PROBLEM)
        for target, kind, body, status, code in wrong
    ]


@cache
def _bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (_BOMB_SIDE, _BOMB_SIDE)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
