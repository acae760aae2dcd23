"""Amounts that are held for a while and may not add up to more than a limit."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from service.errors import ClientLimitError, QueueFullError


class Allowance:
    """Refuses what does not fit.

    Attributes:
        limit: may be changed; what is held already stays.
    """

    def __init__(self, limit: int, unit: str) -> None:
        self.held = 0
        self.limit = limit
        self._unit = unit

    def take(self, amount: int, *, retry_after_s: Callable[[], int]) -> None:
        """Hold `amount` until it is given back; when nothing is held, any amount fits.

        Raises:
            QueueFullError: too much is held already.
        """
        if self.held and self.held + amount > self.limit:
            seconds = retry_after_s()
            raise QueueFullError(
                f"{self.held} {self._unit} in work, limit {self.limit}; retry in {seconds} s",
                retry_after_s=seconds,
            )
        self.held += amount

    def give_back(self, amount: int) -> None:
        self.held -= amount

    @contextmanager
    def hold(self, amount: int, *, retry_after_s: Callable[[], int]) -> Iterator[None]:
        """Hold `amount` inside the block.

        Raises:
            QueueFullError: as `take`.
        """
        self.take(amount, retry_after_s=retry_after_s)
        try:
            yield
        finally:
            self.give_back(amount)


class ClientShares:
    """Refuses one client what it has no room for, whatever the others leave free.

    Args:
        limit: images in work of one client; None: no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._held: dict[str, int] = {}

    @property
    def num_clients(self) -> int:
        """Clients with something in work."""
        return len(self._held)

    @contextmanager
    def hold(
        self, client: str, images: int = 1, *, retry_after_s: Callable[[], int]
    ) -> Iterator[None]:
        """Hold `images` inside the block; a client with nothing in work may hold any number.

        Args:
            client: of a `Job`; an empty one has no limit.

        Raises:
            ClientLimitError: it holds too much already.
        """
        if self._limit is None or not client:
            yield
            return
        held = self._held.get(client, 0)
        if held and held + images > self._limit:
            seconds = retry_after_s()
            raise ClientLimitError(
                f"{held} images of this client in work, limit {self._limit}; retry in {seconds} s",
                retry_after_s=seconds,
            )
        self._held[client] = held + images
        try:
            yield
        finally:
            left = self._held[client] - images
            if left:
                self._held[client] = left
            else:
                del self._held[client]


class Turnstile:
    """Makes wait what does not fit, first come first served."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount` inside the block; one over the limit waits until it is alone."""
        await self._acquire(amount)
        try:
            yield
        finally:
            self._release(amount)

    def _fits(self, amount: int) -> bool:
        return self._held == 0 or self._held + amount <= self._limit

    async def _acquire(self, amount: int) -> None:
        if not self._waiting and self._fits(amount):
            self._held += amount
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (amount, admitted)
        self._waiting.append(place)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._release(amount)
            elif place in self._waiting:
                self._waiting.remove(place)
                self._admit_next()
            raise

    def _release(self, amount: int) -> None:
        self._held -= amount
        self._admit_next()

    def _admit_next(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            amount, admitted = self._waiting.popleft()
            if not admitted.done():
                self._held += amount
                admitted.set_result(None)
