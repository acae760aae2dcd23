"""Amounts that are refused or made to wait."""

import asyncio

import pytest

from service.engine.budget import Allowance, ClientShares, Turnstile
from service.errors import ClientLimitError, QueueFullError

pytestmark = pytest.mark.anyio


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Visitor:
    """Holds an amount until told to leave."""

    def __init__(self, turnstile: Turnstile, amount: int) -> None:
        self.is_inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(turnstile, amount))

    async def _visit(self, turnstile: Turnstile, amount: int) -> None:
        async with turnstile.hold(amount):
            self.is_inside = True
            await self._leave.wait()
        self.is_inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task
        await settle()


async def test_an_allowance_refuses_what_does_not_fit() -> None:
    allowance = Allowance(10, "images")
    with allowance.hold(7, retry_after_s=lambda: 3):
        with pytest.raises(QueueFullError, match="7 images") as refusal:
            allowance.take(4, retry_after_s=lambda: 3)
        assert refusal.value.retry_after_s == 3
        with allowance.hold(3, retry_after_s=lambda: 3):
            assert allowance.held == 10
    assert allowance.held == 0


async def test_an_allowance_is_given_back_after_an_error() -> None:
    allowance = Allowance(1, "images")
    with pytest.raises(ZeroDivisionError), allowance.hold(1, retry_after_s=lambda: 1):
        _ = 1 / 0
    assert allowance.held == 0


async def test_a_single_amount_over_the_limit_is_held_alone() -> None:
    allowance = Allowance(10, "bytes")
    with allowance.hold(50, retry_after_s=lambda: 1), pytest.raises(QueueFullError):
        allowance.take(1, retry_after_s=lambda: 1)


async def test_a_turnstile_keeps_the_order() -> None:
    turnstile = Turnstile(10)
    first = Visitor(turnstile, 8)
    await settle()
    large, small = Visitor(turnstile, 9), Visitor(turnstile, 1)
    await settle()
    assert first.is_inside
    assert not large.is_inside
    assert not small.is_inside, "it would fit, but the large one was first"
    await first.leave()
    assert large.is_inside
    assert small.is_inside
    await large.leave()
    await small.leave()


async def test_an_amount_over_the_limit_waits_until_it_is_alone() -> None:
    turnstile = Turnstile(10)
    first = Visitor(turnstile, 1)
    huge = Visitor(turnstile, 100)
    await settle()
    assert not huge.is_inside
    await first.leave()
    assert huge.is_inside
    await huge.leave()


async def test_who_gives_up_waiting_lets_the_next_one_in() -> None:
    turnstile = Turnstile(10)
    first = Visitor(turnstile, 8)
    await settle()
    large, small = Visitor(turnstile, 9), Visitor(turnstile, 1)
    await settle()
    large.task.cancel()
    await settle()
    assert small.is_inside
    await first.leave()
    await small.leave()
    last = Visitor(turnstile, 10)
    await settle()
    assert last.is_inside, "nothing was lost"
    await last.leave()


async def test_who_gives_up_at_the_moment_of_admission_holds_nothing() -> None:
    turnstile = Turnstile(10)
    first = Visitor(turnstile, 10)
    await settle()
    second = Visitor(turnstile, 10)
    await settle()
    first._leave.set()
    await first.task
    second.task.cancel()
    await settle()
    third = Visitor(turnstile, 10)
    await settle()
    assert third.is_inside
    await third.leave()


def test_one_client_has_no_part_in_the_share_of_another() -> None:
    shares = ClientShares(2)
    with shares.hold("a", retry_after_s=lambda: 4), shares.hold("a", retry_after_s=lambda: 4):
        with (
            pytest.raises(ClientLimitError, match="2 images of this client") as refusal,
            shares.hold("a", retry_after_s=lambda: 4),
        ):
            pass
        assert (refusal.value.status, refusal.value.headers()) == (429, {"Retry-After": "4"})
        with shares.hold("b", 2, retry_after_s=lambda: 4):
            assert shares.num_clients == 2
    assert shares.num_clients == 0, "a client with nothing in work is forgotten"
    with shares.hold("a", 5, retry_after_s=lambda: 4), pytest.raises(ClientLimitError):
        shares.hold("a", retry_after_s=lambda: 4).__enter__()


def test_a_share_is_given_back_after_an_error() -> None:
    shares = ClientShares(1)
    with pytest.raises(ZeroDivisionError), shares.hold("a", retry_after_s=lambda: 1):
        _ = 1 / 0
    assert shares.num_clients == 0


@pytest.mark.parametrize(("limit", "client"), [(None, "a"), (1, "")], ids=["no limit", "no key"])
def test_who_has_no_limit_is_not_counted(limit: int | None, client: str) -> None:
    shares = ClientShares(limit)
    with (
        shares.hold(client, retry_after_s=lambda: 1),
        shares.hold(client, 9, retry_after_s=lambda: 1),
    ):
        assert shares.num_clients == 0
