"""What load to make."""

from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["poisson", "constant"]


@dataclass(frozen=True, slots=True)
class Retry:
    """When a request is sent again instead of counting as failed: 429, 503, broken connections.

    Attributes:
        attempts: the first one included.
        backoff_s: before the second attempt; doubles from one to the next.
        cap_s: the longest wait, also where `Retry-After` asks for more.
    """

    attempts: int = 1
    backoff_s: float = 0.05
    cap_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """One run.

    Attributes:
        urls: of replicas, `http://host:port`; requests take turns, a retry goes to the next one.
        duration_s: requests are sent for so long, warm-up included.
        warm_up_s: requests of the beginning that no figure counts.
        connections: closed loop: so many clients, each of which waits for its answer. Open loop:
            the most connections to one replica; an arrival that finds none free is counted as a
            failure of the generator.
        rate: requests per second, whatever the answers do (open loop); None: closed loop.
        arrivals: of the open loop.
        timeout_s: without an answer for so long, a request has failed.
        abandon_share: of the requests whose client closes the connection before the answer.
        abandon_within_s: at a random time up to this.
        keep_records: a record of every request, besides the histograms.
        keep_answers: and so many answers of each process, with their bodies.
        processes: that generate the load.
        seed: of arrival times and the choice of pictures.
    """

    urls: tuple[str, ...]
    duration_s: float
    warm_up_s: float = 0.0
    connections: int = 64
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    timeout_s: float = 30.0
    retry: Retry = Retry()
    abandon_share: float = 0.0
    abandon_within_s: float = 0.1
    keep_records: bool = False
    keep_answers: int = 0
    processes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.urls or self.connections < self.processes or self.processes < 1:
            raise ValueError("a load needs a URL, a process, and a connection for each process")
        if self.warm_up_s >= self.duration_s:
            raise ValueError(f"warm-up of {self.warm_up_s} s in a run of {self.duration_s} s")
