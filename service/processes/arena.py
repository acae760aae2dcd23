"""Shared memory for pictures between one front end and the engines."""

import asyncio
import mmap
import os
from bisect import insort
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import QueueFullError

_PAGE: Final = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of an arena, bytes."""

    offset: int
    size: int


class Mapping:
    """An arena as the engine sees it.

    Args:
        descriptor: of the memory; stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        # numpy keeps the mapping alive as long as a view of it exists
        self._bytes = np.frombuffer(mmap.mmap(descriptor, self.size), dtype=np.uint8)

    def view(self, offset: int, size: int) -> NDArray[np.uint8]:
        """(size,) uint8, writable.

        Raises:
            ValueError: not inside the arena.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"{size} bytes at {offset} are not inside {self.size}")
        return self._bytes[offset : offset + size]


class Arena:
    """An arena as its front end sees it: hands out slots, first come first served.

    The lowest place that fits is taken, so that the system's memory is touched only as far as it
    is needed at one time. The memory has no name: it is gone with the last process that uses it.

    Args:
        size: bytes, rounded up to whole pages.
    """

    def __init__(self, size: int) -> None:
        self.size = _round_up(size)
        self.descriptor = os.memfd_create("smserve-pictures", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, self.size)
        self._mapping = Mapping(self.descriptor)
        # (offset, size) of what is free, neighbours joined
        self._free = [(0, self.size)]
        self._waiting: deque[tuple[int, asyncio.Future[Slot]]] = deque()

    @property
    def used(self) -> int:
        """Bytes handed out."""
        return self.size - sum(size for _, size in self._free)

    def view(self, slot: Slot, size: int) -> NDArray[np.uint8]:
        """The first `size` bytes of a slot, writable."""
        return self._mapping.view(slot.offset, size)

    async def take(self, size: int) -> Slot:
        """A slot of at least `size` bytes, as soon as there is one.

        Raises:
            QueueFullError: larger than the whole arena.
        """
        wanted = _round_up(size)
        if wanted > self.size:
            raise QueueFullError(
                f"the picture needs {size} bytes, a front end has {self.size}; "
                "see processes.picture_bytes"
            )
        slot = None if self._waiting else self._fit(wanted)
        if slot is not None:
            return slot
        promised: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        place = (wanted, promised)
        self._waiting.append(place)
        try:
            return await promised
        except asyncio.CancelledError:
            if promised.done() and not promised.cancelled():
                self.give_back(promised.result())
            elif place in self._waiting:
                self._waiting.remove(place)
                self._serve_waiting()
            raise

    def give_back(self, slot: Slot) -> None:
        """Let others have it; nobody may read or write it any more."""
        insort(self._free, (slot.offset, slot.size))
        joined: list[tuple[int, int]] = []
        for offset, size in self._free:
            if joined and sum(joined[-1]) == offset:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((offset, size))
        self._free = joined
        self._serve_waiting()

    def close(self) -> None:
        """Let go of the descriptor; views stay valid."""
        os.close(self.descriptor)

    def _fit(self, size: int) -> Slot | None:
        for index, (offset, room) in enumerate(self._free):
            if room >= size:
                rest = [(offset + size, room - size)] if room > size else []
                self._free[index : index + 1] = rest
                return Slot(offset, size)
        return None

    def _serve_waiting(self) -> None:
        while self._waiting:
            size, promised = self._waiting[0]
            if promised.done():
                self._waiting.popleft()
                continue
            slot = self._fit(size)
            if slot is None:
                return
            self._waiting.popleft()
            promised.set_result(slot)


def _round_up(size: int) -> int:
    return max(1, -(-size // _PAGE)) * _PAGE
