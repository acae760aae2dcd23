"""One keep-alive HTTP/1.1 connection that carries one request at a time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"


class MalformedAnswerError(ValueError):
    """Not an answer as this client understands it: HTTP/1.1 with `Content-Length`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server sent.

    Attributes:
        head: status line and headers, without the empty line.
    """

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Value of a header; None when it was not sent."""
        lower = self.head.lower()
        start = lower.find(b"\r\n" + name.lower().encode("ascii") + b":")
        if start < 0:
            return None
        start = self.head.index(b":", start) + 1
        end = self.head.find(b"\r\n", start)
        return self.head[start : end if end >= 0 else None].decode("latin-1").strip()


class Listener(Protocol):
    """Whoever waits for the answer of one request."""

    def answered(self, connection: "Connection", answer: Answer) -> None: ...

    def broken(self, connection: "Connection", kind: str) -> None:
        """No answer will come; `kind` says why."""
        ...


class Connection(asyncio.Protocol):
    """Reports to the listener of the request that it carries.

    Args:
        on_idle_loss: told when the server closes the connection between two requests.
    """

    __slots__ = ("_expected", "_on_idle_loss", "_received", "is_open", "listener", "transport")

    def __init__(self, on_idle_loss: "Callable[[Connection], None]") -> None:
        self._on_idle_loss = on_idle_loss
        self._received = bytearray()
        self._expected = 0
        self.listener: Listener | None = None
        self.transport: asyncio.Transport
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.is_open = True

    def send(self, request: bytes, listener: Listener) -> None:
        """Write the request; the listener hears what became of it."""
        self.listener = listener
        self.transport.write(request)

    def abort(self) -> None:
        """Close at once and tell nobody."""
        self.listener = None
        self.is_open = False
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._received:
            self._received += data
            if len(self._received) < self._expected:
                return
            data = bytes(self._received)
        try:
            answer, missing = _parse(data)
        except MalformedAnswerError:
            self._report_broken("malformed")
            self.abort()
            return
        if answer is None:
            if not self._received:
                self._received += data
            self._expected = len(data) + missing
            return
        if self._received:
            self._received.clear()
        self._report(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self.listener is not None:
            self._report_broken("reset" if exc is not None else "closed")
        else:
            self._on_idle_loss(self)

    def _report(self, answer: Answer) -> None:
        listener, self.listener = self.listener, None
        if listener is None:  # an answer that nobody asked for
            self.abort()
            return
        if b"\r\nconnection: close" in answer.head.lower():
            self.is_open = False
            self.transport.close()
        listener.answered(self, answer)

    def _report_broken(self, kind: str) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.broken(self, kind)


def _parse(data: bytes) -> tuple[Answer | None, int]:
    """The answer, or how many bytes are missing at least."""
    end = data.find(_HEAD_END)
    if end < 0:
        return None, 1
    head = data[:end]
    length = _content_length(head)
    missing = end + len(_HEAD_END) + length - len(data)
    if missing > 0:
        return None, missing
    try:
        status = int(data[9:12])
    except ValueError as exc:
        raise MalformedAnswerError(repr(data[:40])) from exc
    return Answer(status, head, data[end + len(_HEAD_END) :]), 0


def _content_length(head: bytes) -> int:
    start = head.find(_LENGTH)
    if start < 0:
        start = head.lower().find(_LENGTH)
    if start < 0:
        raise MalformedAnswerError("no Content-Length")
    start += len(_LENGTH)
    end = head.find(b"\r\n", start)
    try:
        return int(head[start:] if end < 0 else head[start:end])
    except ValueError as exc:
        raise MalformedAnswerError(repr(head[start : start + 40])) from exc
