"""What the engine needs of a model, whatever computes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from model.config import ModelSpec
from model.results import Params, Result


class PreparedImage(Protocol):
    """One image as the network sees it; belongs to the backend that made it."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's input; only equal shapes share a batch."""
        ...

    @property
    def original_hw(self) -> tuple[int, int]:
        """Height and width of the upright original image."""
        ...


class Finishing(Enum):
    """Where `finish` is called for the images of a batch."""

    AT_ONCE = "it takes microseconds: on the event loop, another thread would take longer"
    TOGETHER = "it takes little: on one thread for all, many would wait for each other"
    SPREAD = "it takes long: on all threads"


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A staged batch of a backend that has nothing to do beforehand."""

    images: Sequence[Any]
    params: Sequence[Params]


class Backend(Protocol):
    """One loaded model.

    `prepare` and `finish` are thread-safe. `stage` is called by one thread at a time and `infer`
    from the device thread only; one batch may be staged while another one is computed.

    Attributes:
        kind: name of the implementation, for `/models`.
        device: where it computes, e.g. `cpu`.
        dtype: of the computation, e.g. `float32`.
        sha256: of the model file; None when there is no file.
        prepares_at_once: `prepare` only notes sizes: going to another thread would take longer.
        finishing: where `finish` is called.
    """

    kind: str
    device: str
    dtype: str
    sha256: str | None
    spec: ModelSpec
    prepares_at_once: bool
    finishing: Finishing

    def prepare(self, rgb: NDArray[np.uint8]) -> Any:
        """(H, W, 3) uint8, upright -> a `PreparedImage`."""
        ...

    def stage(self, batch: Sequence[Any], params: Sequence[Params]) -> Any:
        """Images of one shape -> the batch on its way to the device, for one call of `infer`.

        Dropping it drops the batch.
        """
        ...

    def infer(self, staged: Any) -> list[Any]:
        """One opaque raw result per image of a staged batch, in order."""
        ...

    def finish(self, raw: Any, prepared: Any) -> Result:
        """Raw result -> result in the coordinates of the upright original image."""
        ...


@runtime_checkable
class BatchWarmUp(Protocol):
    """What a `Backend` has, too, when each batch size must be made ready before it is used.

    Attributes:
        warm_up_batches: those sizes, in the order in which to make them ready.
    """

    warm_up_batches: tuple[int, ...]

    @property
    def graph_count(self) -> int:
        """Recordings of a whole batch that the device can replay, held now; any thread."""
        ...

    def warm_up(self, batch_size: int) -> None:
        """Make one size ready; called from the device thread only."""
        ...
