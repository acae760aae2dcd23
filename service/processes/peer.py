"""Questions, answers and notices between the supervisor and the processes it has started."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

from service.errors import ServiceError, service_error
from service.processes import wire
from service.processes.channel import Channel, ChannelClosedError, Kind, Message

log = logging.getLogger(__name__)

# fields and raw bytes
Content = tuple[Mapping[str, Any], bytes]
Handler = Callable[[Mapping[str, Any], bytes], Awaitable[Content]]
Listener = Callable[[Mapping[str, Any], bytes], None]


class Peer:
    """One end of such a connection; belongs to the event loop.

    Args:
        answers: what can be asked here.
        notices: what can be told here; it is called at once.
        on_close: called once, when the other process has gone.

    Attributes:
        channel: to be connected by the owner.
    """

    def __init__(
        self,
        *,
        answers: Mapping[str, Handler],
        notices: Mapping[str, Listener],
        on_close: Callable[[], None],
    ) -> None:
        self._answers = answers
        self._notices = notices
        self._on_close = on_close
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Content]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self.channel = Channel(self._receive, self._lose)

    async def ask(
        self, what: str, fields: Mapping[str, Any] | None = None, *, timeout_s: float
    ) -> Content:
        """The other process's answer.

        Raises:
            ServiceError: what the other process raised.
            ChannelClosedError: it has gone, or went meanwhile.
            TimeoutError: it did not answer in time.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Content] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self.channel.send(Kind.ASK, {"id": number, "what": what, "with": fields or {}})
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._asked.pop(number, None)

    def tell(
        self, what: str, fields: Mapping[str, Any] | None = None, payload: bytes = b""
    ) -> None:
        """Say something that needs no answer; it is lost if the other process has gone."""
        if self.channel.is_open:
            self.channel.send(Kind.TELL, {"what": what, "with": fields or {}}, payload)

    def _receive(self, message: Message) -> None:
        fields = message.fields
        match message.kind:
            case Kind.TELL:
                self._notices[fields["what"]](fields["with"], message.payload)
            case Kind.ASK:
                task = asyncio.create_task(self._answer(fields, message.payload))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case Kind.ANSWER:
                self._resolve(fields, message.payload)
            case _:
                log.error("unexpected message", extra={"kind": message.kind})

    async def _answer(self, question: Mapping[str, Any], payload: bytes) -> None:
        reply: dict[str, Any] = {"id": question["id"]}
        content = b""
        try:
            reply["with"], content = await self._answers[question["what"]](
                question["with"], payload
            )
        except Exception as exc:
            if not isinstance(exc, ServiceError):
                log.exception("could not answer", extra={"what": question["what"]})
            reply["error"] = wire.error_to_fields(service_error(exc))
        if self.channel.is_open:
            self.channel.send(Kind.ANSWER, reply, content)

    def _resolve(self, fields: Mapping[str, Any], payload: bytes) -> None:
        answer = self._asked.get(fields["id"])
        if answer is None or answer.done():
            return
        if "error" in fields:
            answer.set_exception(wire.error_from_fields(fields["error"]))
        else:
            answer.set_result((fields["with"], payload))

    def _lose(self) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ChannelClosedError("the other process has gone"))
        self._on_close()
