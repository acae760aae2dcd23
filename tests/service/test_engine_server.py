"""The engine's side of a connection, spoken to message by message."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from model.results import ClassifyParams
from service.processes import wire
from service.processes.arena import Arena
from service.processes.channel import Channel, Kind, Message, connect
from service.settings import Settings
from tests.service.running import listening_engine

pytestmark = pytest.mark.anyio
HW = (32, 48)


class FrontEnd:
    """Sends what a front end sends, in any order."""

    def __init__(self) -> None:
        self.arena = Arena(1 << 20)
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.channel = Channel(self.received.put_nowait, lambda: None)

    def submit(self, number: int, *, timeout_s: float = 30.0) -> None:
        fields = {
            "id": number,
            "model": "stub-classify",
            "params": wire.params_to_fields(ClassifyParams()),
            "timeout_s": timeout_s,
            "priority": 2,
            "client": "",
            "offset": 0,
            "hw": HW,
        }
        self.channel.send(Kind.SUBMIT, fields)

    def cancel(self, number: int) -> None:
        self.channel.send(Kind.CANCEL, {"id": number})

    async def answers(self, count: int) -> dict[int, Message]:
        """By the number of the picture; other messages are skipped."""
        found: dict[int, Message] = {}
        with anyio.fail_after(10):
            while len(found) < count:
                message = await self.received.get()
                if message.kind in (Kind.RESULT, Kind.ERROR):
                    assert message.fields["id"] not in found, "answered twice"
                    found[message.fields["id"]] = message
        return found


@asynccontextmanager
async def front_end(tmp_path: Path, **stub: float) -> AsyncIterator[FrontEnd]:
    path = tmp_path / "engine.sock"
    async with listening_engine(Settings(backend="stub", stub=stub), path) as core:
        with anyio.fail_after(20):
            while not core.entries():  # noqa: ASYNC110 - the engine has no event for this
                await anyio.sleep(0.005)
        front = FrontEnd()
        await connect(path, front.channel, descriptor=front.arena.descriptor)
        try:
            yield front
        finally:
            front.channel.close()
            front.arena.close()


async def test_what_is_withdrawn_at_once_is_answered_too(tmp_path: Path) -> None:
    """Otherwise its place in shared memory would never be free again."""
    async with front_end(tmp_path) as front:
        for number in range(1, 9):
            # both arrive together: the engine has not begun with the picture
            front.submit(number)
            front.cancel(number)
        answers = await front.answers(8)
        assert {answer.kind for answer in answers.values()} == {Kind.ERROR}
        assert {answer.fields["code"] for answer in answers.values()} == {"client_gone"}
        front.submit(9)
        assert (await front.answers(1))[9].kind == Kind.RESULT


async def test_every_picture_is_answered_once(tmp_path: Path) -> None:
    async with front_end(tmp_path, batch_ms=30) as front:
        for number in range(1, 31):
            front.submit(number)
            if number % 3 == 0:
                await asyncio.sleep(0)
                front.cancel(number)
            if number % 5 == 0:
                front.cancel(number)
                front.cancel(number)
        answers = await front.answers(30)
        assert answers[1].kind == answers[2].kind == Kind.RESULT
        front.cancel(1)  # long answered: nothing happens
        front.submit(31)
        assert (await front.answers(1))[31].kind == Kind.RESULT


async def test_a_place_outside_the_shared_memory_ends_the_connection(tmp_path: Path) -> None:
    async with front_end(tmp_path) as front:
        closed = asyncio.Event()
        front.channel._on_close = closed.set
        fields = {"id": 1, "hw": (10_000, 10_000), "offset": 0}
        front.channel.send(Kind.SUBMIT, fields)
        with anyio.fail_after(10):
            await closed.wait()
