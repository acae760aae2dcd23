"""What all users of one process share: the requests, the counts, and the end of a run."""

import time
from typing import Any, Final

import gevent

from loadtests.locust_users.ledger import Counter
from loadtests.locust_users.options import LoadOptions, load_options
from loadtests.locust_users.pictures import Picture
from loadtests.locust_users.shots import Deck, build_deck

_POLL_S: Final = 0.05


def update_clock() -> None:
    """After long work: gevent counts from the time it last looked, so timers would end early."""
    gevent.get_hub().loop.update_now()


class Sender:
    """One process that sends requests.

    Args:
        pictures: made once, before processes are forked off.

    Attributes:
        deck: what is sent.
        counter: what was sent.
        in_flight: requests without an answer.
        is_draining: no more requests, the run is over.
        ended: `time.monotonic()` at which that was so.
    """

    deck: Deck

    def __init__(self, environment: Any, pictures: tuple[Picture, ...]) -> None:
        self._environment = environment
        self._pictures = pictures
        self._deck_of: float | None = None
        self.counter = Counter()
        self.in_flight = 0
        self.is_draining = False
        self.ended = 0.0
        self._num_users = 0

    @property
    def options(self) -> LoadOptions:
        """As they are now: the web UI changes them between and during runs."""
        return load_options(self._environment.parsed_options)

    def prepare(self) -> None:
        """Make the requests, unless they are there already."""
        largest = self.options.max_megapixels
        if largest != self._deck_of:
            self.deck = build_deck([one for one in self._pictures if one.megapixels <= largest])
            self._deck_of = largest
            update_clock()

    def begin(self, **_: Any) -> None:
        """Listens to `test_start`."""
        self.prepare()
        self.counter.reset()
        self.is_draining = False
        self._num_users = 0

    def drain(self) -> None:
        """Send nothing more, and wait for what has been sent.

        Locust stops users at once, and with them the requests that take longest: what is slow
        would be missing from its statistics.
        """
        self.is_draining, self.ended = True, time.monotonic()
        deadline = self.ended + self.options.drain_s
        while self.in_flight and time.monotonic() < deadline:
            gevent.sleep(_POLL_S)

    def next_user(self) -> str:
        """Seeds of the users differ, between processes too, and are the same in every run."""
        self._num_users += 1
        return f"{getattr(self._environment.runner, 'worker_index', 0)}-{self._num_users}"
