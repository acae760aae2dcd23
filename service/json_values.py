"""JSON of strangers: what it unfolds to in memory is bounded before it is parsed."""

from typing import Any

import orjson

from service.errors import MalformedBodyError


def load_json(data: bytes, *, max_values: int, end: int | None = None, hint: str = "") -> Any:
    """Parse `data[:end]`.

    A byte of JSON may become a hundred bytes of objects, so the values are counted first.

    Args:
        max_values: members and elements; commas and brackets in strings count as well.
        hint: what to do about too many.

    Raises:
        MalformedBodyError: not JSON, nested too deeply, or too many values.
    """
    found = sum(data.count(mark, 0, end) for mark in (b",", b"[", b"{"))
    if found > max_values:
        raise MalformedBodyError(
            f"the JSON holds about {found} values, at most {max_values} are read{hint}"
        )
    try:
        return orjson.loads(memoryview(data)[:end])
    except orjson.JSONDecodeError as exc:
        raise MalformedBodyError(f"the body is not JSON: {exc}") from exc
