"""What the batcher, its queue and those who use them have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

ItemT_contra = TypeVar("ItemT_contra", contravariant=True)
ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Only entries with equal keys share a batch.

    Attributes:
        model: its name; speed is measured per model.
        shape: height and width of the network's input.
        loading: which loading of the model; after a reload, old and new never share a batch.
    """

    model: str
    shape: tuple[int, int]
    loading: int = 0

    @property
    def pixels(self) -> int:
        """Of one entry."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Sizes of batches and of the queue; times in seconds.

    Attributes:
        max_age_s: what has waited longer goes before everything else.
        batch_sizes: a batch is filled up to the next of these; none: any size is computed as it is.
    """

    max_batch_images: int
    max_batch_pixels: int
    max_delay_s: float
    max_age_s: float
    max_queue_images: int
    max_queue_pixels: int
    batch_sizes: tuple[int, ...] = ()

    def cap(self, key: BatchKey, *, memory_cap: int | None = None) -> int:
        """Most images of a batch, at least 1.

        Args:
            memory_cap: more do not fit into the device's memory; None: not known.
        """
        most = min(self.max_batch_images, self.max_batch_pixels // max(1, key.pixels))
        if memory_cap is not None:
            most = min(most, memory_cap)
        return max((size for size in self.batch_sizes if size <= most), default=max(1, most))

    def computed_as(self, images: int) -> int:
        """Images that a batch of `images` is filled up to."""
        return min((size for size in self.batch_sizes if size >= images), default=images)

    def half(self, images: int) -> int:
        """The next smaller batch to try, at least 1, where `images` did not fit into memory.

        It is the size that it was computed as that did not fit.
        """
        most = max(1, min(self.computed_as(images) // 2, images - 1))
        return max((size for size in self.batch_sizes if size <= most), default=most)


@dataclass(frozen=True, slots=True)
class Served(Generic[ResultT]):
    """A result and how it came about; times in seconds."""

    result: ResultT
    queue_s: float
    infer_s: float
    batch_size: int


class BatchObserver(Protocol):
    """Told what happens, for metrics."""

    def batch_done(self, key: BatchKey, images: int) -> None: ...

    def dropped(self, reason: str) -> None: ...


class BatchRunner(Protocol[ItemT_contra, ResultT_co]):
    """What computes batches, one after another; its methods belong to the event loop.

    An `EngineUnavailableError` fails a batch as a whole, a `DeviceOutOfMemoryError` makes it and
    all later ones smaller; after any other exception it is repeated in halves, so that only the
    culprit fails.
    """

    async def stage(self, key: BatchKey, items: Sequence[ItemT_contra]) -> Any:
        """Bring a batch to the device, also while another one is computed.

        Returns:
            the staged batch, for one `compute`; dropping it drops the batch.
        """
        ...

    async def compute(
        self, key: BatchKey, staged: Any, is_wanted: Callable[[], bool]
    ) -> Sequence[ResultT_co] | None:
        """Compute a staged batch as soon as the ones before are done.

        Args:
            is_wanted: asked right before it begins, from any thread.

        Returns:
            one result per item, in order; None: it was not wanted any more.
        """
        ...
