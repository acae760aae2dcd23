"""What Locust's own statistics do not hold, of one process or of all together."""

import time
from collections.abc import Mapping
from typing import Any

from loadtests.generator.histogram import LatencyHistogram

Message = Mapping[str, Any]


class Ledger:
    """Counts of a run.

    Attributes:
        offered: requests that should have been sent in the open loop.
        unsent: of these; as many requests as are allowed had no answer yet, or Locust was late.
        spawner_s: that users have lived in the open loop, all together.
        images: in requests that were answered as they should be.
        late: open loop: seconds from when a request should have been sent to when it was.
        cpu_s: processor time of the processes that send.
    """

    def __init__(self) -> None:
        self.offered = self.unsent = self.images = self.requests = 0
        self.late = LatencyHistogram()
        self.cpu_s = self.spawner_s = 0.0

    def merge(self, message: Message) -> None:
        """Add what a process has counted since its last message."""
        self.offered += message["offered"]
        self.unsent += message["unsent"]
        self.images += message["images"]
        self.requests += message["requests"]
        self.cpu_s += message["cpu_s"]
        self.spawner_s += message["spawner_s"]
        self.late.add(message["late"])


class Counter:
    """The ledger page of one process: counted up here, taken away with each report."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a run."""
        self.offered = self.unsent = self.images = self.requests = 0
        self.late: list[float] = []
        self.spawner_s = 0.0
        self._cpu_s = time.process_time()

    def take(self) -> dict[str, Any]:
        """Everything since the last call, in a form that Locust can send."""
        now = time.process_time()
        message = {
            "offered": self.offered,
            "unsent": self.unsent,
            "images": self.images,
            "requests": self.requests,
            "late": [round(seconds, 6) for seconds in self.late],
            "spawner_s": self.spawner_s,
            "cpu_s": now - self._cpu_s,
        }
        self.reset()
        return message
