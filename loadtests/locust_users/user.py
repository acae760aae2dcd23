"""The user that Locust multiplies: thinks between answers, or keeps a rate whatever they do."""

import random
import time
from typing import Any, Final

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, task

from loadtests.locust_users.answers import Outcome, entry_name, judge
from loadtests.locust_users.options import LoadOptions
from loadtests.locust_users.sender import Sender
from loadtests.locust_users.shots import Shot

TOO_MANY: Final = "not sent: too many requests in flight"
TOO_LATE: Final = "not sent: Locust was too late"
NO_ANSWER: Final = "no answer until the end of the run"
_IDLE_S: Final = 0.1
# what was due so shortly before the end may go unsent: nobody was late
_SOON_S: Final = 0.1
_LONGEST_RETRY_S: Final = 60.0


class SmserveUser(FastHttpUser):
    """Someone with pictures.

    In the closed loop a person who looks at each answer before sending the next picture; a
    refusal makes them wait for as long as the service asks. In the open loop the arrivals of many
    strangers, each of whom sends one request at its time and is not kept from it by the others.
    """

    network_timeout = 120.0
    connection_timeout = 10.0

    def __init__(self, environment: Any) -> None:
        self._sender: Sender = environment.smserve_sender
        self._options: LoadOptions = self._sender.options
        self._pool = Pool(self._options.max_in_flight)
        self.concurrency = self._options.max_in_flight if self._options.is_open else 1
        super().__init__(environment)

    def on_start(self) -> None:
        # not a secret, and the same load in every run
        self._rng = random.Random(self._sender.next_user())  # noqa: S311
        self._started = time.monotonic()
        self._due = self._started + self._gap() * self._rng.random()
        self._retry_s = 0.0

    def on_stop(self) -> None:
        """What has no answer by now is counted as failed, and so is what was never sent."""
        if self._sender.is_draining:
            ended = self._sender.ended
        else:
            # fewer users were asked for, the run goes on
            ended = time.monotonic()
            self._pool.join(self._options.drain_s)
        self._pool.kill()
        if self._options.is_open:
            self._account(ended)

    def _account(self, ended: float) -> None:
        """Count the arrivals that were due until the end, and had to be sent."""
        counter = self._sender.counter
        counter.spawner_s += ended - self._started
        while self._due <= ended - _SOON_S:
            counter.offered += 1
            counter.unsent += 1
            self._fail(self._draw(), TOO_LATE, self._due)
            self._due += self._gap()

    @task
    def send(self) -> None:
        """The next request of the closed loop; in the open loop, those that are due."""
        if self._sender.is_draining:
            return
        if not self._options.is_open:
            self._exchange(self._draw(), None)
        elif self._due <= time.monotonic():
            self._arrive()

    def wait_time(self) -> float:
        """Seconds until `send` is called again."""
        if self._sender.is_draining:
            return _IDLE_S
        if self._options.is_open:
            return max(0.0, self._due - time.monotonic())
        return max(self._retry_s, self._rng.uniform(*self._options.think_s))

    def _arrive(self) -> None:
        counter, shot, due = self._sender.counter, self._draw(), self._due
        counter.offered += 1
        self._due += self._gap()
        if self._pool.free_count() > 0:
            self._pool.spawn(self._exchange, shot, due)
        else:
            counter.unsent += 1
            self._fail(shot, TOO_MANY, due)

    def _gap(self) -> float:
        """Seconds from one arrival of this user to the next."""
        if not self._options.is_open:
            return 0.0
        rate = self._options.spawner_rate
        return 1 / rate if self._options.arrivals == "constant" else self._rng.expovariate(rate)

    def _draw(self) -> Shot:
        return self._sender.deck.draw(self._rng, self._options.mix, self._options.mistakes)

    def _exchange(self, shot: Shot, due: float | None) -> None:
        """One request and its answer.

        Args:
            due: open loop: when it should be sent, which is from when its time counts.
        """
        sender, started = self._sender, time.monotonic()
        late = 0.0 if due is None else max(0.0, started - due)
        if due is not None:
            sender.counter.late.append(late)
        sender.counter.requests += 1
        sender.in_flight += 1
        try:
            self._post(shot, late)
        except gevent.GreenletExit:
            self._fail(shot, NO_ANSWER, started - late)
            raise
        finally:
            sender.in_flight -= 1

    def _post(self, shot: Shot, late: float) -> None:
        headers = {"Content-Type": shot.payload.content_type, **shot.headers}
        if self._options.api_key:
            headers["Authorization"] = f"Bearer {self._options.api_key}"
        self._retry_s = 0.0
        with self.client.post(
            shot.payload.target,
            data=shot.payload.body,
            headers=headers,
            name=f"/{shot.task}",
            catch_response=True,
        ) as response:
            response.request_meta["response_time"] += 1e3 * late
            self._file(shot, response)

    def _file(self, shot: Shot, response: Any) -> None:
        """Judge an answer, and count it where it belongs."""
        given = response.headers or {}
        media_type = (given.get("content-type") or "").partition(";")[0].strip().lower()
        verdict = judge(shot, response.status_code, media_type, response.content or b"")
        response.request_meta["name"] = entry_name(shot.task, verdict.outcome)
        if verdict.outcome is Outcome.OK:
            self._sender.counter.images += shot.payload.images
        elif verdict.outcome is Outcome.REFUSED:
            self._retry_s = _retry_after(given)
        elif verdict.outcome is Outcome.FAILED:
            error = type(getattr(response, "error", None)).__name__
            response.failure(verdict.reason if response.status_code else f"no answer: {error}")
            return
        response.success()

    def _fail(self, shot: Shot, reason: str, since: float) -> None:
        """Count a request without an answer."""
        self.environment.events.request.fire(
            request_type="POST",
            name=entry_name(shot.task, Outcome.FAILED),
            response_time=1e3 * (time.monotonic() - since),
            response_length=0,
            exception=TimeoutError(reason),
            context={},
        )


def _retry_after(headers: Any) -> float:
    """Seconds that the service asks to wait; 0 when it does not say."""
    text = headers.get("retry-after") or ""
    return min(float(text), _LONGEST_RETRY_S) if text.isdigit() else 0.0
