"""What is refused before any work is done: strangers, new work at the end, too many bytes."""

import asyncio
import hashlib
import hmac
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.engine.budget import Allowance
from service.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    MalformedBodyError,
    ShuttingDownError,
    UnauthorizedError,
)
from service.lifecycle import Lifecycle, Phase
from service.request_record import record_of
from service.work_paths import is_work, needs_key


class AuthMiddleware:
    """Asks for an API key where there is work or a list of models to have, if there are keys."""

    def __init__(self, app: ASGIApp, *, api_keys: Sequence[SecretStr]) -> None:
        self._app = app
        self._keys = [key.get_secret_value().encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and needs_key(scope["path"]):
            given = _presented_key(Headers(scope=scope))
            # every key is compared, so the time tells nothing about which one came close
            if not sum(hmac.compare_digest(given, key) for key in self._keys):
                raise UnauthorizedError(
                    "expected a valid API key in `Authorization: Bearer` or `X-API-Key`"
                )
            record_of(scope).key_digest = _digest(given)
        await self._app(scope, receive, send)


def _digest(key: bytes) -> str:
    """Tells clients apart, in messages between processes, too, without naming their keys."""
    return hashlib.blake2b(key, digest_size=8).hexdigest()


def _presented_key(headers: Headers) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return key.encode("latin-1")


class DrainMiddleware:
    """Refuses new work once the service is closed; everything else is still answered."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks_work = scope["type"] == "http" and is_work(scope["path"])
        if asks_work and self._lifecycle.phase is Phase.CLOSED:
            raise ShuttingDownError("the server is shutting down", retry_after_s=5)
        await self._app(scope, receive, send)


class BodyLimitMiddleware:
    """Bounds the bytes and the time of a body, and the bytes held by all requests together.

    Args:
        max_bytes: of one body.
        timeout_s: from the first look at a request to the last byte of its body.
        held: shared by all requests.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float, held: Allowance) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._check_announced(Headers(scope=scope).get("content-length"))
        meter = _BodyMeter(receive, self._max_bytes, self._timeout_s, self._held)
        try:
            await self._app(scope, meter.receive, send)
        finally:
            record_of(scope).bytes_in = meter.num_bytes
            self._held.give_back(meter.num_bytes)

    def _check_announced(self, content_length: str | None) -> None:
        if content_length is None:
            return
        if not (content_length.isascii() and content_length.isdigit()):
            raise MalformedBodyError(f"Content-Length is {content_length[:40]!r}")
        if len(content_length) > 18 or int(content_length) > self._max_bytes:
            raise BodyTooLargeError(
                f"the body has {content_length[:40]} bytes, limit {self._max_bytes}"
            )


class _BodyMeter:
    """A `receive` that counts."""

    def __init__(self, receive: Receive, max_bytes: int, timeout_s: float, held: Allowance) -> None:
        self.num_bytes = 0
        self._receive = receive
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._held = held
        self._is_complete = False

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as exc:
            raise BodyTimeoutError(
                f"the body did not arrive within {self._timeout_s:g} s "
                f"({self.num_bytes} bytes so far)"
            ) from exc
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            self._is_complete = not message.get("more_body", False)
        return message

    def _count(self, num_bytes: int) -> None:
        if self.num_bytes + num_bytes > self._max_bytes:
            raise BodyTooLargeError(f"the body has more than {self._max_bytes} bytes, the limit")
        self._held.take(num_bytes, retry_after_s=lambda: 1)
        self.num_bytes += num_bytes
