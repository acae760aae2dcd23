"""Pictures to send, and the bytes of the requests that carry them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

SAMPLES: Final = Path(__file__).resolve().parents[2] / "demo/samples"
_BOUNDARY: Final = "a-boundary-no-picture-contains"
MULTIPART: Final = f"multipart/form-data; boundary={_BOUNDARY}"


@dataclass(frozen=True, slots=True)
class Payload:
    """One request: to a path with its query, with so many pictures.

    Attributes:
        content_type: of the body.
    """

    target: str
    content_type: str
    body: bytes
    images: int

    def request(self, netloc: str) -> bytes:
        """All bytes of the request, for a server at `host:port`."""
        head = (
            f"POST {self.target} HTTP/1.1\r\nHost: {netloc}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode("ascii") + self.body


def sample_pictures() -> list[bytes]:
    """The photographs that ship with the demo, as files."""
    return [path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))]


def jpeg_pictures(
    width: int, height: int, *, number: int, target_bytes: int, seed: int = 0
) -> list[bytes]:
    """Different JPEG files of exactly this size, cut from the samples.

    Args:
        target_bytes: of one file; the quality comes as near to it as it can.
    """
    rng = np.random.default_rng(seed)
    sources = [Image.open(io.BytesIO(data)).convert("RGB") for data in sample_pictures()]
    pictures = []
    for index in range(number):
        cut = random_cut(sources[index % len(sources)], width / height, rng)
        picture = cut.resize((width, height), Image.Resampling.BICUBIC)
        pictures.append(_encode_near(picture, target_bytes))
    return pictures


def random_cut(source: Image.Image, aspect: float, rng: np.random.Generator) -> Image.Image:
    """A part of the wanted aspect ratio, of 70 to 100 % of the largest possible size."""
    largest = min(source.width, source.height * aspect)
    width = largest * rng.uniform(0.7, 1.0)
    height = width / aspect
    left = rng.uniform(0, source.width - width)
    top = rng.uniform(0, source.height - height)
    return source.crop((round(left), round(top), round(left + width), round(top + height)))


def _encode_near(picture: Image.Image, target_bytes: int) -> bytes:
    low, high = 20, 98
    best = b""
    while low <= high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        if not best or abs(len(data) - target_bytes) < abs(len(best) - target_bytes):
            best = data
        if len(data) < target_bytes:
            low = quality + 1
        else:
            high = quality - 1
    return best


def raw_payloads(target: str, pictures: Sequence[bytes]) -> list[Payload]:
    """One picture a request, as the body itself."""
    return [Payload(target, "image/jpeg", picture, 1) for picture in pictures]


def multipart_payloads(
    target: str, pictures: Sequence[bytes], files: int, *, step: int = 1
) -> list[Payload]:
    """Requests with `files` pictures each: every picture, or each `step`th, begins a request."""
    return [
        Payload(
            target,
            MULTIPART,
            multipart_body([pictures[(first + k) % len(pictures)] for k in range(files)]),
            files,
        )
        for first in range(0, len(pictures), step)
    ]


def multipart_body(files: Sequence[bytes], field: str = "image") -> bytes:
    """A form with these files, for the media type `MULTIPART`."""
    part = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode("ascii")
    return b"".join(part + data + b"\r\n" for data in files) + f"--{_BOUNDARY}--\r\n".encode()
