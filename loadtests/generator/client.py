"""The load of one process: connections, arrivals, retries, clients that leave."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from loadtests.generator.connection import Answer, Connection
from loadtests.generator.payloads import Payload
from loadtests.generator.plan import LoadPlan
from loadtests.generator.recorder import KeptAnswer, Record, Recorder

# event loops round their timers to a millisecond: what is due within half of one goes now
_TIMER_S: Final = 0.0005
_SWEEP_S: Final = 0.1
_PAUSE_AFTER_ERROR_S: Final = 0.02


class Replica:
    """The connections to one server: idle ones are reused, the one that has waited longest first.

    So requests come from all of them in turns, like those of as many clients. The last one first
    would send most requests over a few connections, and so to few of the server's front ends.

    Args:
        limit: of open connections.
    """

    def __init__(self, url: str, payloads: Sequence[Payload], limit: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self.requests = [payload.request(parts.netloc) for payload in payloads]
        self._limit = limit
        self._num_open = 0
        self._idle: deque[Connection] = deque()

    def idle(self) -> Connection | None:
        """An open connection that carries no request."""
        while self._idle:
            connection = self._idle.popleft()
            if connection.is_open:
                return connection
        return None

    @property
    def may_open(self) -> bool:
        return self._num_open < self._limit

    async def open(self) -> Connection:
        """A new connection.

        Raises:
            OSError: the server does not listen.
        """
        self._num_open += 1
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self._lost), self._host, self._port
            )
        except OSError:
            self._num_open -= 1
            raise
        return connection

    def give_back(self, connection: Connection) -> None:
        """After an answer; a connection that the server closes is forgotten."""
        if connection.is_open:
            self._idle.append(connection)
        else:
            self._num_open -= 1

    def forget(self) -> None:
        """One open connection is gone."""
        self._num_open -= 1

    def close(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    def _lost(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            self._num_open -= 1


class Exchange:
    """One request until it is settled, over all its attempts."""

    __slots__ = (
        "_client", "_connection", "_replica", "attempts", "deadline", "index", "intended",
        "is_settled", "sent", "when_settled",
    )  # fmt: skip

    def __init__(
        self, client: "Client", index: int, intended: float, when_settled: Callable[[], None] | None
    ) -> None:
        self._client = client
        self._connection: Connection | None = None
        self._replica: Replica
        self.index = index
        self.intended = self.sent = intended
        self.deadline = intended + client.plan.timeout_s
        self.attempts = 0
        self.is_settled = False
        self.when_settled = when_settled

    def start(self, replica: Replica) -> None:
        """Send to this replica, over a new connection where none is idle."""
        if self.is_settled:
            return
        self.attempts += 1
        self._replica = replica
        connection = replica.idle()
        if connection is not None:
            self._send(connection)
        elif replica.may_open:
            self._client.spawn(self._connect(replica))
        else:
            self._settle(0, "no_connection", None)

    def answered(self, connection: Connection, answer: Answer) -> None:
        self._connection = None
        self._replica.give_back(connection)
        if answer.status in (429, 503) and self._retry(str(answer.status), answer):
            return
        self._settle(answer.status, "", answer)

    def broken(self, connection: Connection, kind: str) -> None:
        self._connection = None
        self._replica.forget()
        if not self._retry(kind, None):
            self._settle(0, kind, None)

    def give_up(self, kind: str) -> None:
        """Close the connection and settle without an answer."""
        if self.is_settled:
            return
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
            self._replica.forget()
        self._settle(0, kind, None)

    async def _connect(self, replica: Replica) -> None:
        try:
            connection = await replica.open()
        except OSError:
            if not self._retry("refused", None):
                self._settle(0, "refused", None)
            return
        if self.is_settled:
            replica.give_back(connection)
        else:
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        self.sent = time.monotonic()
        connection.send(self._replica.requests[self.index], self)

    def _retry(self, kind: str, answer: Answer | None) -> bool:
        retry = self._client.plan.retry
        if self.attempts >= retry.attempts or self.is_settled:
            return False
        wait = retry.backoff_s * 2 ** (self.attempts - 1)
        asked = answer.header("retry-after") if answer is not None else None
        if asked is not None and asked.isdigit():
            wait = max(wait, float(asked))
        self._client.recorder.result.retries[kind] += 1
        self._client.loop.call_later(
            min(wait, retry.cap_s), self.start, self._client.next_replica()
        )
        return True

    def _settle(self, status: int, kind: str, answer: Answer | None) -> None:
        self.is_settled = True
        self._client.settled(self, status, kind, answer)


class Client:
    """Runs one process's part of a plan.

    Args:
        share: number of this process, and of how many.
        start_at: `time.monotonic()` at which all processes begin.
    """

    def __init__(
        self,
        plan: LoadPlan,
        payloads: Sequence[Payload],
        *,
        share: tuple[int, int],
        start_at: float,
    ) -> None:
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self._payloads = payloads
        self._number, self._of = share
        self._start_at = start_at
        self._end_at = start_at + plan.duration_s
        self.recorder = Recorder(
            # event loops wake a moment early: without a warm-up everything counts
            measured_from=start_at + plan.warm_up_s if plan.warm_up_s else float("-inf"),
            keep_records=plan.keep_records,
            keep_answers=plan.keep_answers,
        )
        self._rng = np.random.default_rng((plan.seed, self._number))
        own = plan.connections // self._of + (self._number < plan.connections % self._of)
        self._connections = own
        self._replicas = [Replica(url, payloads, own) for url in plan.urls]
        self._turn = self._number
        self._next_payload = int(self._rng.integers(len(payloads)))
        self._open: dict[Exchange, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_settled = asyncio.Event()

    async def run(self) -> Recorder:
        """Send for the planned time, then wait for the last answers."""
        cpu = time.process_time()
        await asyncio.sleep(self._start_at - time.monotonic())
        sweeper = asyncio.create_task(self._sweep())
        if self.plan.rate is None:
            await self._closed_loop()
        else:
            await self._open_loop(self.plan.rate / self._of)
        while self._open:
            self._all_settled.clear()
            await self._all_settled.wait()
        sweeper.cancel()
        for replica in self._replicas:
            replica.close()
        self.recorder.end_second()
        result = self.recorder.result
        result.seconds = self.plan.duration_s - self.plan.warm_up_s
        result.cpu_s = time.process_time() - cpu
        return self.recorder

    async def _closed_loop(self) -> None:
        for _ in range(self._connections):
            self._begin(time.monotonic(), self._next_of_slot)
        await asyncio.sleep(self._end_at - time.monotonic())

    def _next_of_slot(self) -> None:
        now = time.monotonic()
        if now < self._end_at:
            self._begin(now, self._next_of_slot)

    async def _open_loop(self, rate: float) -> None:
        arrivals = self._arrivals(rate)
        at = 0
        while at < len(arrivals):
            now = time.monotonic()
            while at < len(arrivals) and arrivals[at] <= now + _TIMER_S:
                # a request that goes early counts from then
                self._begin(min(arrivals[at], now), None)
                self.recorder.result.late = max(self.recorder.result.late, now - arrivals[at])
                at += 1
            if at < len(arrivals):
                await asyncio.sleep(max(0.0, arrivals[at] - time.monotonic()))

    def _arrivals(self, rate: float) -> list[float]:
        plan = self.plan
        if plan.arrivals == "constant":
            steps = np.arange(0.5 + self._number / self._of, rate * plan.duration_s + 0.5)
            return list(self._start_at + steps / rate)
        expected = rate * plan.duration_s
        gaps = self._rng.exponential(1 / rate, int(expected + 10 * expected**0.5 + 10))
        times = np.cumsum(gaps)
        return list(self._start_at + times[times < plan.duration_s])

    def _begin(self, intended: float, when_settled: Callable[[], None] | None) -> None:
        index = self._next_payload
        self._next_payload = (index + 1) % len(self._payloads)
        exchange = Exchange(self, index, intended, when_settled)
        self._open[exchange] = None
        self.recorder.result.offered += 1
        if self.plan.abandon_share and self._rng.random() < self.plan.abandon_share:
            delay = float(self._rng.uniform(0, self.plan.abandon_within_s))
            self.loop.call_later(delay, exchange.give_up, "abandoned")
        exchange.start(self.next_replica())

    def next_replica(self) -> Replica:
        """They take turns."""
        self._turn += 1
        return self._replicas[self._turn % len(self._replicas)]

    def spawn(self, work: "asyncio.Future[None] | object") -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def settled(self, exchange: Exchange, status: int, kind: str, answer: Answer | None) -> None:
        """Called by an exchange, once."""
        now = time.monotonic()
        self._open.pop(exchange, None)
        if not self._open:
            self._all_settled.set()
        kept = None
        if answer is not None and self.recorder.wants_answers:
            timing = answer.header("server-timing") or ""
            kept = KeptAnswer(exchange.index, status, now - exchange.sent, timing, answer.body)
        record = Record(
            exchange.index, exchange.intended, exchange.sent, now, status, kind, exchange.attempts
        )
        self.recorder.settle(record, self._payloads[exchange.index].images, kept)
        if exchange.when_settled is None:
            return
        if kind in ("refused", "no_connection"):  # a server that is away: no use in hurrying
            self.loop.call_later(_PAUSE_AFTER_ERROR_S, exchange.when_settled)
        else:
            self.loop.call_soon(exchange.when_settled)

    async def _sweep(self) -> None:
        """Time-outs: one look at all requests costs less than a timer for each."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for exchange in [one for one in self._open if one.deadline <= now]:
                exchange.give_up("timeout")
