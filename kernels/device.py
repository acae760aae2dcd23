"""What a CUDA device offers a block of threads."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Device:
    """Limits of one device.

    Attributes:
        capability: compute capability, for example (9, 0).
        shared_bytes: shared memory that one block may have at most.
    """

    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int


def describe_device(device: torch.device) -> Device:
    """Limits of a CUDA device."""
    properties = torch.cuda.get_device_properties(device)
    return Device(
        (properties.major, properties.minor),
        properties.multi_processor_count,
        # not in torch's type stubs
        int(getattr(properties, "shared_memory_per_block_optin")),  # noqa: B009
    )
