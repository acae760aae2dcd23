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
        backend: computes it; all of a batch have the same.
        prepared: by this backend.
    """

    backend: Backend
    prepared: Any
    params: Params


@dataclass(frozen=True, slots=True)
class _Staged:
    backend: Backend
    batch: Any


class BackendRunner:
    """A `BatchRunner` of `Work`, whose results are the backends' raw ones.

    Args:
        on_out_of_memory: told the name of the model, each time.
    """

    def __init__(
        self,
        threads: DeviceThreads,
        *,
        on_out_of_memory: Callable[[str], None],
    ) -> None:
        self._threads = threads
        self._on_out_of_memory = on_out_of_memory

    async def stage(self, key: BatchKey, items: Sequence[Work]) -> _Staged:
        """See `BatchRunner.stage`."""
        backend = items[0].backend
        images, params = [work.prepared for work in items], [work.params for work in items]
        try:
            batch = await self._threads.stage.run(lambda: backend.stage(images, params))
        except DeviceOutOfMemoryError:
            self._on_out_of_memory(key.model)
            raise
        return _Staged(backend, batch)

    async def compute(
        self, key: BatchKey, staged: _Staged, is_wanted: Callable[[], bool]
    ) -> Sequence[Any] | None:
        """See `BatchRunner.compute`: the call waits on the thread, behind the running one."""
        try:
            return await self._threads.compute.run(
                lambda: staged.backend.infer(staged.batch) if is_wanted() else None
            )
        except DeviceOutOfMemoryError:
            self._on_out_of_memory(key.model)
            raise
