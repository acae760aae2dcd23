"""Shared memory: what is handed out never overlaps, and all of it comes back."""

import asyncio
import mmap
import os
import random

import anyio
import numpy as np
import pytest

from service.errors import QueueFullError
from service.processes.arena import Arena, Mapping, Slot

pytestmark = pytest.mark.anyio
PAGE = mmap.PAGESIZE


def overlap(one: Slot, other: Slot) -> bool:
    return one.offset < other.offset + other.size and other.offset < one.offset + one.size


async def test_random_use_never_overlaps_and_leaves_nothing() -> None:
    arena, choose, held = Arena(64 * PAGE), random.Random(0), list[Slot]()  # noqa: S311 - a test
    for _ in range(5000):
        if held and (choose.random() < 0.5 or arena.used > 40 * PAGE):
            arena.give_back(held.pop(choose.randrange(len(held))))
            continue
        try:
            async with asyncio.timeout(0):
                slot = await arena.take(choose.randrange(1, 6 * PAGE))
        except TimeoutError:
            continue
        assert not any(overlap(slot, other) for other in held)
        held.append(slot)
    assert arena.used == sum(slot.size for slot in held)
    for slot in held:
        arena.give_back(slot)
    assert arena.used == 0
    whole = await arena.take(64 * PAGE)
    assert whole == Slot(0, 64 * PAGE), "free neighbours are joined again"


async def test_who_finds_no_room_waits_in_turn() -> None:
    arena = Arena(4 * PAGE)
    first = await arena.take(3 * PAGE)
    large = asyncio.create_task(arena.take(2 * PAGE))
    small = asyncio.create_task(arena.take(PAGE))
    await anyio.sleep(0.01)
    assert not small.done(), "it would fit, but the larger one came first"
    arena.give_back(first)
    slots = [await large, await small]
    assert not overlap(*slots)


async def test_who_stops_waiting_lets_the_next_one_pass() -> None:
    arena = Arena(2 * PAGE)
    first = await arena.take(PAGE)
    large = asyncio.create_task(arena.take(2 * PAGE))
    small = asyncio.create_task(arena.take(PAGE))
    await anyio.sleep(0.01)
    large.cancel()
    second = await small
    assert not overlap(first, second)
    arena.give_back(first)
    arena.give_back(second)
    assert arena.used == 0


async def test_a_slot_promised_to_somebody_who_leaves_is_not_lost() -> None:
    arena = Arena(PAGE)
    first = await arena.take(PAGE)
    waiting = asyncio.create_task(arena.take(PAGE))
    await anyio.sleep(0.01)
    arena.give_back(first)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert arena.used == 0


async def test_what_never_fits_is_refused() -> None:
    with pytest.raises(QueueFullError, match="picture_bytes"):
        await Arena(PAGE).take(PAGE + 1)


async def test_both_sides_see_the_same_bytes() -> None:
    arena = Arena(2 * PAGE)
    other = Mapping(arena.descriptor)
    slot = await arena.take(10)
    arena.view(slot, 10)[:] = np.arange(10, dtype=np.uint8)
    assert other.view(slot.offset, 10).tolist() == list(range(10))
    for offset, size in ((-1, 4), (0, -1), (2 * PAGE - 1, 2)):
        with pytest.raises(ValueError, match="not inside"):
            other.view(offset, size)


async def test_views_outlive_the_descriptor() -> None:
    arena = Arena(PAGE)
    other = Mapping(arena.descriptor)
    view = other.view(0, 4)
    arena.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(arena.descriptor)
    view[:] = 7
    assert view.tolist() == [7] * 4
