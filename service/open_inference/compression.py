"""`Content-Encoding` of both directions: gzip and deflate."""

import zlib
from typing import Final

from service.errors import BodyTooLargeError, MalformedBodyError
from service.negotiation import quality_weights

# as zlib names the two formats
_WINDOWS: Final = {"gzip": 31, "deflate": 15}
# smaller answers fit one packet anyway
_MIN_BYTES: Final = 1024
# label maps and masks shrink as well at the fastest level
_LEVEL: Final = 1


def decompress(data: bytes, coding: str, *, max_bytes: int) -> bytes:
    """A body as it was before its client compressed it.

    Raises:
        MalformedBodyError: another coding, or damaged data.
        BodyTooLargeError: more than `max_bytes` come out.
    """
    window = _WINDOWS.get(coding)
    if window is None:
        known = " or ".join(_WINDOWS)
        raise MalformedBodyError(f"Content-Encoding is {coding[:40]!r}, expected {known}")
    unpacker = zlib.decompressobj(window)
    try:
        content = unpacker.decompress(data, max_bytes + 1)
    except zlib.error as exc:
        raise MalformedBodyError(f"the body is not {coding}: {exc}") from exc
    if len(content) > max_bytes:
        raise BodyTooLargeError(f"the body unpacks to more than {max_bytes} bytes, the limit")
    if not unpacker.eof or unpacker.unused_data:
        raise MalformedBodyError(f"the {coding} body is cut off, or something follows it")
    return content


def compress(content: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """An answer as its client would like to have it, and the coding; None: as it is."""
    if len(content) < _MIN_BYTES:
        return content, None
    weights = quality_weights(accept_encoding)
    coding = max(_WINDOWS, key=lambda name: weights.get(name, 0.0))
    if weights.get(coding, 0.0) <= 0.0:
        return content, None
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOWS[coding])
    return packer.compress(content) + packer.flush(), coding
