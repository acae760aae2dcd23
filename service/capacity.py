"""How much fits onto the device and before it, where the operator has not said so."""

from dataclasses import dataclass
from typing import Final

from service.cores import usable_cores
from service.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Sizes of batches and of the queue.

    Attributes:
        batch_images: in one batch.
        batch_pixels: sum over one batch, at the network's input size.
        queue_images: accepted and not yet answered.
        queue_pixels: waiting for the device, at the network's input size.
    """

    batch_images: int
    batch_pixels: int
    queue_images: int
    queue_pixels: int


_CPU: Final = Capacity(
    batch_images=16,
    batch_pixels=600_000,
    queue_images=256,
    queue_pixels=64_000_000,
)
_GPU: Final = Capacity(
    batch_images=128,
    batch_pixels=16 * 800 * 1344,
    queue_images=1024,
    queue_pixels=256_000_000,
)


_MOST_FRONTENDS: Final = 32


def default_frontends() -> int:
    """Processes that speak HTTP beside a GPU: most of the cores, since they decode."""
    return max(1, min(_MOST_FRONTENDS, usable_cores() * 3 // 4))


def capacity_for(settings: Settings, device: str) -> Capacity:
    """The operator's numbers, and for those left out what suits the device.

    A CPU is busy with a few small pictures: larger batches cost memory and gain nothing. A GPU is
    idle until a batch is large, so 128 pictures may share one; the pixels bound the memory of
    detection and segmentation at 16 pictures of 800 x 1344, about 17 million. Its queue holds
    several such batches, since it works them off as quickly as a CPU a few pictures.

    Args:
        device: `cpu`, or a CUDA device such as `cuda:0`.
    """
    batch, queue = settings.batch, settings.queue
    default = _CPU if device == "cpu" else _GPU
    return Capacity(
        batch_images=batch.max_images or default.batch_images,
        batch_pixels=batch.max_pixels or default.batch_pixels,
        queue_images=queue.max_images or default.queue_images,
        queue_pixels=queue.max_pixels or default.queue_pixels,
    )
