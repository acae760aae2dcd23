"""Batches of the batcher on the backends, each step on the thread that it belongs to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from model.results import Params
from service.backends.base import Backend
from service.engine.batch_types import BatchKey
from service.engine.device import DeviceOutOfMemoryError, DeviceThreads


@dataclass(frozen=True, slots=True)
class Work:
    """One image of a batch.

    Attributes:
        prepared: by the backend that will compute it.
    """

    prepared: Any
    params: Params


class BackendRunner:
    """A `BatchRunner` of `Work`, whose results are the backends' raw ones.

    Args:
        backend_of: by the name of the model.
        on_out_of_memory: told the name of the model, each time.
    """

    def __init__(
        self,
        threads: DeviceThreads,
        backend_of: Callable[[str], Backend],
        *,
        on_out_of_memory: Callable[[str], None],
    ) -> None:
        self._threads = threads
        self._backend_of = backend_of
        self._on_out_of_memory = on_out_of_memory

    async def stage(self, key: BatchKey, items: Sequence[Work]) -> Any:
        """See `BatchRunner.stage`."""
        backend = self._backend_of(key.model)
        images, params = [work.prepared for work in items], [work.params for work in items]
        try:
            return await self._threads.stage.run(lambda: backend.stage(images, params))
        except DeviceOutOfMemoryError:
            self._on_out_of_memory(key.model)
            raise

    async def compute(
        self, key: BatchKey, staged: Any, is_wanted: Callable[[], bool]
    ) -> Sequence[Any] | None:
        """See `BatchRunner.compute`: the call waits on the thread, behind the running one."""
        backend = self._backend_of(key.model)
        try:
            return await self._threads.compute.run(
                lambda: backend.infer(staged) if is_wanted() else None
            )
        except DeviceOutOfMemoryError:
            self._on_out_of_memory(key.model)
            raise
