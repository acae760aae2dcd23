"""The three forms of a request body: picture bytes, multipart files, Hugging Face JSON."""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import (
    InvalidParameterError,
    MalformedBodyError,
    TooManyImagesError,
)
from service.json_values import load_json
from service.setting_groups import LimitSettings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IMAGE_FIELD: Final = "image"
_MULTIPART: Final = b"multipart/form-data"
_JSON: Final = b"application/json"
_MAX_PART_HEADERS: Final = 8
# a picture is one value, whatever its size
_MAX_JSON_VALUES: Final = 1000


@dataclass(frozen=True, slots=True)
class ImageBody:
    """What a body holds.

    Attributes:
        images: encoded pictures, in order; at least one.
        parameters: of the JSON form, by name; empty otherwise.
        is_json: the JSON form, whose clients expect a bare list.
        is_list: several pictures were sent, so several answers are expected.
    """

    images: tuple[bytes, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_json: bool = False

    @property
    def is_list(self) -> bool:
        return len(self.images) > 1


def parse_body(data: bytes, content_type: str, limits: LimitSettings) -> ImageBody:
    """Find the pictures in a body.

    Anything that is neither multipart nor JSON counts as the bytes of one picture, whatever the
    media type says: their content decides later.

    Raises:
        MalformedBodyError: unreadable multipart or JSON, unknown fields, no picture.
        TooManyImagesError: more pictures than allowed.
        InvalidParameterError: the JSON form with a bad value.
    """
    media_type, options = parse_options_header(content_type)
    if media_type == _MULTIPART:
        images = _multipart_images(data, options.get(b"boundary", b""), limits)
        return ImageBody(tuple(images))
    if media_type == _JSON:
        return _json_body(data)
    return ImageBody((data,))


def is_bare_picture(content_type: str) -> bool:
    """Whether `parse_body` would take the whole body for one picture, and so have nothing to do."""
    return parse_options_header(content_type)[0] not in (_MULTIPART, _JSON)


def _json_body(data: bytes) -> ImageBody:
    content = load_json(data, max_values=_MAX_JSON_VALUES)
    if not isinstance(content, dict) or "inputs" not in content:
        raise MalformedBodyError('expected {"inputs": "<base64>", "parameters": {...}}')
    unknown = sorted(content.keys() - {"inputs", "parameters"})
    if unknown:
        raise MalformedBodyError(f"unknown members: {', '.join(unknown)[:200]}")
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidParameterError("parameters must be an object")
    return ImageBody((_decode_base64(content["inputs"]),), parameters, is_json=True)


def _decode_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise MalformedBodyError(f"inputs must be a base64 string, got {type(text).__name__}")
    if text.startswith(("http://", "https://")):
        raise MalformedBodyError("inputs is an address; pictures are not fetched, send base64")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise MalformedBodyError(f"inputs is not base64: {exc}") from exc


class _Parts:
    """Collects the files of a multipart body in memory, and refuses everything else."""

    def __init__(self, limits: LimitSettings) -> None:
        self.images: list[bytes] = []
        self.is_complete = False
        self._limits = limits
        self._content = bytearray()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[bytes, bytes] = {}

    def on_part_begin(self) -> None:
        limit = self._limits.max_images_per_request
        if len(self.images) >= limit:
            raise TooManyImagesError(f"more than {limit} pictures in one request, limit {limit}")
        self._content = bytearray()
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or name != IMAGE_FIELD:
            raise MalformedBodyError(
                f"unexpected form field {name[:60]!r}, expected files in field {IMAGE_FIELD!r}; "
                "parameters go into the query"
            )
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            raise MalformedBodyError("parts must be sent as plain binary, without an encoding")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def on_part_end(self) -> None:
        self.images.append(bytes(self._content))

    def on_end(self) -> None:
        self.is_complete = True


def _multipart_images(data: bytes, boundary: bytes, limits: LimitSettings) -> list[bytes]:
    if not boundary:
        raise MalformedBodyError("multipart/form-data without a boundary")
    parts = _Parts(limits)
    callbacks: MultipartCallbacks = {
        "on_part_begin": parts.on_part_begin,
        "on_part_data": parts.on_part_data,
        "on_part_end": parts.on_part_end,
        "on_header_field": parts.on_header_field,
        "on_header_value": parts.on_header_value,
        "on_header_end": parts.on_header_end,
        "on_headers_finished": parts.on_headers_finished,
        "on_end": parts.on_end,
    }
    try:
        parser = MultipartParser(
            boundary,
            callbacks,
            max_header_count=_MAX_PART_HEADERS,
            max_header_size=limits.max_part_header_bytes,
        )
        parser.write(data)
        parser.finalize()
    except FormParserError as exc:
        raise MalformedBodyError(f"the multipart body is malformed: {exc}") from exc
    if not parts.is_complete:
        raise MalformedBodyError("the multipart body ends before its last boundary")
    if not parts.images:
        raise MalformedBodyError(f"no file in field {IMAGE_FIELD!r}")
    return parts.images
