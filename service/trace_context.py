"""W3C Trace Context: which trace a request belongs to, as its client says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_MEMBER: Final = re.compile(
    rb"[ \t]*(?:[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256})?[ \t]*"
)
_MAX_STATE_BYTES: Final = 2048
_MAX_MEMBERS: Final = 32


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The span of the client that sent the request.

    Attributes:
        trace_id: 32 hexadecimal digits, not all zero.
        span_id: 16 hexadecimal digits, not all zero.
        is_sampled: the client records its own span.
        state: value of `tracestate`; empty when there is none, or none that is valid.
    """

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str = ""


def trace_parent(parents: Sequence[bytes], states: Sequence[bytes]) -> TraceParent | None:
    """What `traceparent` and `tracestate` say; None unless there is one valid `traceparent`.

    Args:
        parents: values of all `traceparent` headers.
        states: values of all `tracestate` headers; worthless ones are left out.
    """
    match = _TRACEPARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    # later versions may append something, the first one may not
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return TraceParent(
        trace_id.decode(), span_id.decode(), bool(int(flags, 16) & 1), _state(b",".join(states))
    )


def _state(value: bytes) -> str:
    if len(value) > _MAX_STATE_BYTES:
        return ""
    members = value.split(b",")
    if len(members) > _MAX_MEMBERS or not all(_MEMBER.fullmatch(member) for member in members):
        return ""
    return value.decode("ascii")
