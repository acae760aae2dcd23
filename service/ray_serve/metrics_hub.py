"""One `/metrics` for all replicas, whichever of them the proxy asks."""

import asyncio
import logging
import time
from typing import Any, Final

import ray
from ray.actor import ActorHandle

from service.errors import NotReadyError
from service.metrics_hub import MetricsHub
from service.telemetry import Metrics

log = logging.getLogger(__name__)

_NAME: Final = "smserve-metrics"
_NAMESPACE: Final = "smserve"
_PUSH_S: Final = 2.0
_ANSWER_S: Final = 5.0
# a replica that says nothing for so long is gone
_SILENT_S: Final = 30.0


class HubActor:
    """Adds up what the replicas have counted; an actor without a share of any resource."""

    def __init__(self) -> None:
        self._hub = MetricsHub()
        self._heard: dict[str, float] = {}

    def update(self, replica: str, snapshot: bytes) -> None:
        """Take the latest snapshot of a replica."""
        self._hub.update(replica, snapshot)
        self._heard[replica] = time.monotonic()

    def gone(self, replica: str, snapshot: bytes) -> None:
        """A replica has ended, with this as its last words."""
        self._hub.update(replica, snapshot)
        self._forget(replica)

    def exposition(self, replica: str, snapshot: bytes) -> tuple[bytes, str]:
        """The text of all metrics, with the present state of the replica that asks."""
        self.update(replica, snapshot)
        now = time.monotonic()
        for name in [one for one, heard in self._heard.items() if now - heard > _SILENT_S]:
            self._forget(name)
        return self._hub.exposition()

    def _forget(self, replica: str) -> None:
        self._heard.pop(replica, None)
        self._hub.gone(replica)


class ReplicaReporter:
    """A replica's end of it.

    Args:
        replica: its name, unique in the cluster.
    """

    def __init__(self, replica: str, metrics: Metrics) -> None:
        self._replica, self._metrics = replica, metrics
        self._hub: ActorHandle[Any] = _open_hub()
        self._pushing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Report from now on."""
        self._pushing = asyncio.create_task(self._push(), name="metrics-push")

    async def stop(self) -> None:
        """Report for the last time."""
        if self._pushing is not None:
            self._pushing.cancel()
        await self._ask("gone")

    async def scrape(self) -> tuple[bytes, str]:
        """What `/metrics` shows.

        Raises:
            NotReadyError: the hub does not answer; half the sum would look like a restart.
        """
        answer: tuple[bytes, str] | None = await self._ask("exposition")
        if answer is None:
            raise NotReadyError("the metrics of the other replicas are not there", retry_after_s=1)
        return answer

    async def _push(self) -> None:
        while True:
            await self._ask("update")
            await asyncio.sleep(_PUSH_S)

    async def _ask(self, method: str) -> Any:
        """What the hub answers; None when it does not."""
        call = getattr(self._hub, method).remote(self._replica, self._metrics.registry.snapshot())
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await call
        except (TimeoutError, ray.exceptions.RayError):
            log.warning("the metrics hub does not answer", exc_info=True)
            return None


def _open_hub() -> "ActorHandle[Any]":
    """There is one in a cluster; whoever comes first starts it, and it outlives updates."""
    actor: Any = ray.remote(HubActor)
    hub: ActorHandle[Any] = actor.options(
        name=_NAME,
        namespace=_NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
    ).remote()
    return hub
