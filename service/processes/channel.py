"""Messages between two processes over a Unix socket.

A message is a kind (one byte), a JSON object, and raw bytes. Everything is length-prefixed; nothing
is ever unpickled.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, cast

import orjson

log = logging.getLogger(__name__)

_HEAD: Final = struct.Struct("<BII")
_WITH_DESCRIPTOR: Final = b"D"
_NOTHING: Final[Mapping[str, Any]] = {}


class Kind(IntEnum):
    """What a message means; who sends it."""

    HELLO = 1  # both, first: who it is
    MODELS = 2  # engine -> front end
    STATUS = 3  # engine -> front end and supervisor, every moment
    SUBMIT = 4  # front end -> engine: a picture in shared memory
    CANCEL = 5  # front end -> engine: nobody wants the answer
    RESULT = 6  # engine -> front end
    ERROR = 7  # engine -> front end
    ASK = 8  # either side of the supervisor's channels: a request...
    ANSWER = 9  # ...and its answer
    TELL = 10  # either side of the supervisor's channels: no answer


class ChannelClosedError(ConnectionError):
    """The other process has gone."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        fields: of the JSON object.
        payload: raw bytes after it.
    """

    kind: int
    fields: Mapping[str, Any]
    payload: bytes


class Channel(asyncio.Protocol):
    """One end of a connection; belongs to the event loop.

    Args:
        on_message: called for each message, in order; what it raises ends the connection.
        on_close: called once, when the other end has gone or after `close`.
    """

    def __init__(self, on_message: Callable[[Message], None], on_close: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        """Whether messages can still be sent."""
        return self._transport is not None and not self._is_closed

    def send(
        self, kind: Kind, fields: Mapping[str, Any] = _NOTHING, payload: bytes | memoryview = b""
    ) -> None:
        """Queue a message; it is lost if the other process goes.

        Raises:
            ChannelClosedError: it has gone already.
        """
        if self._transport is None or self._is_closed:
            raise ChannelClosedError("the other process has gone")
        text = orjson.dumps(fields)
        self._transport.write(_HEAD.pack(kind, len(text), len(payload)) + text)
        if payload:
            self._transport.write(payload)

    def close(self) -> None:
        """Close after what is queued has been sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # results of a whole batch may be queued at once; who does not read them is dead, not slow
        self._transport.set_write_buffer_limits(high=1 << 30)

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except Exception:  # a message that makes no sense: nothing after it would
            log.exception("a message could not be handled")
            if self._transport is not None:
                self._transport.abort()

    def _take(self, data: bytes) -> None:
        self._received += data
        start, end = 0, len(self._received)
        while end - start >= _HEAD.size:
            kind, num_text, num_payload = _HEAD.unpack_from(self._received, start)
            stop = start + _HEAD.size + num_text + num_payload
            if stop > end:
                break
            text = bytes(self._received[start + _HEAD.size : stop - num_payload])
            payload = bytes(self._received[stop - num_payload : stop])
            start = stop
            self._on_message(Message(kind, orjson.loads(text), payload))
        del self._received[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._on_close()


async def connect(path: Path, channel: Channel, *, descriptor: int | None = None) -> None:
    """Open `channel` to the process that listens at `path`.

    Args:
        descriptor: an open file that the other process is to share; see `receive_descriptor`.

    Raises:
        OSError: nobody listens there.
    """
    end = socket.socket(socket.AF_UNIX)
    try:
        end.connect(str(path))
        if descriptor is not None:
            socket.send_fds(end, [_WITH_DESCRIPTOR], [descriptor])
        end.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=end)
    except BaseException:
        end.close()
        raise


def receive_descriptor(end: socket.socket, *, timeout_s: float) -> int:
    """The open file that `connect` sent; blocks.

    Raises:
        OSError: it did not come.
    """
    end.settimeout(timeout_s)
    _, descriptors, _, _ = socket.recv_fds(end, len(_WITH_DESCRIPTOR), 1)
    end.setblocking(False)
    if not descriptors:
        raise OSError("expected an open file with the first byte")
    return descriptors[0]
