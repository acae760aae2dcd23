"""Answers whose clients do not take them: cut off, so that they do not fill the memory.

Uvicorn buffers whatever its client does not read, and closes a connection only when all of it has
been read. Two parts change this: a protocol that notices when nothing is taken any more and ends
the connection, and a layer that hands large answers over in pieces, so that a request lasts until
its answer has been taken and the access layer learns what became of it.
"""

import asyncio
import fcntl
import logging
import struct
import termios
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import ClientGoneError

log = logging.getLogger(__name__)

_EXTENSION: Final = "smserve.unread"
# several times what uvicorn buffers before it waits, and small beside the answers that need it
_PIECE_BYTES: Final = 256 * 1024
_LOOKS_PER_TIMEOUT: Final = 4


class UnreadAnswer:
    """Watches what a connection still has to send; ends it when no byte of it is taken.

    Args:
        timeout_s: from one byte taken to the next.
    """

    def __init__(self, transport: asyncio.Transport, timeout_s: float) -> None:
        self.was_cut = False
        self.is_lost = False
        self._transport = transport
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._num_bytes = 0
        self._moved_at = 0.0

    @property
    def has_ended(self) -> bool:
        """Nothing can be sent any more, even if the event loop has not said so yet."""
        return self.is_lost or self._transport.is_closing()

    def watch(self) -> None:
        """Look from now on, until everything has been taken."""
        if self._timer is None and self._transport.get_write_buffer_size():
            self.moved()
            self._look_later()

    def moved(self) -> None:
        """The client has taken something."""
        self._num_bytes = self._unread_bytes()
        self._moved_at = asyncio.get_running_loop().time()

    def stop(self, exc: Exception | None) -> None:
        """The connection is gone; with an error if the client did not take what was under way."""
        self.is_lost = True
        self.was_cut = self.was_cut or exc is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unread_bytes(self) -> int:
        """In this process and in the kernel, which takes more only after a large part has gone."""
        socket = self._transport.get_extra_info("socket")
        try:
            queued = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            # closed meanwhile, or a system that does not tell
            queued = bytes(4)
        return int(self._transport.get_write_buffer_size() + struct.unpack("i", queued)[0])

    def _look_later(self) -> None:
        delay_s = self._timeout_s / _LOOKS_PER_TIMEOUT
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        self._timer = None
        num_bytes = self._unread_bytes()
        if num_bytes < self._num_bytes:
            self.moved()
        if not num_bytes:
            return
        if asyncio.get_running_loop().time() - self._moved_at < self._timeout_s:
            self._look_later()
            return
        self.was_cut = True
        client = self._transport.get_extra_info("peername")
        log.info("slow reader cut off", extra={"client": client, "unread_bytes": num_bytes})
        self._transport.abort()


def timed_protocol(timeout_s: float) -> type[HttpToolsProtocol]:
    """Uvicorn's HTTP, for the option `http`, which ends connections that take nothing any more.

    Args:
        timeout_s: an answer of which no byte is taken for so long is cut off.
    """

    class TimedProtocol(HttpToolsProtocol):
        _unread: UnreadAnswer

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._unread = UnreadAnswer(transport, timeout_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._unread.stop(exc)
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope["extensions"] = {_EXTENSION: self._unread}  # type: ignore[dict-item]

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread.watch()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unread.moved()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._unread.watch()

    return TimedProtocol


class WholeAnswerMiddleware:
    """Sends large answers in pieces, each when the one before has been taken for the most part.

    Raises:
        ClientGoneError: the client left, or its connection was cut, before it had everything.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        unread: UnreadAnswer | None = scope.get("extensions", {}).get(_EXTENSION)

        async def send_in_pieces(message: Message) -> None:
            if message["type"] != "http.response.body" or not _is_large(message):
                await send(message)
                return
            body = message["body"]
            for start in range(0, len(body), _PIECE_BYTES):
                piece = body[start : start + _PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if unread is not None and unread.has_ended:
                    raise ClientGoneError("the client has not taken its answer")
            if not message.get("more_body", False):
                # uvicorn waits before it takes this; who has everything may leave meanwhile
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                if unread is not None and unread.was_cut:
                    raise ClientGoneError("the client has not taken its answer in time")

        await self._app(scope, receive, send_in_pieces)


def _is_large(message: Message) -> bool:
    return len(message.get("body", b"")) > _PIECE_BYTES
