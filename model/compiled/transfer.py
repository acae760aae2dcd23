"""Between host and device: where work runs, and copies that are waited for once."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def active(device: torch.device) -> AbstractContextManager[object]:
    """Within it `device` is the current one, where Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies in pinned memory, after one wait for the current stream.

    On the CPU they are the tensors themselves.
    """
    if not any(tensor.is_cuda for tensor in tensors):
        return list(tensors)
    # torch reuses a pinned block as soon as nothing refers to it any more
    copies = [
        torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
            tensor, non_blocking=True
        )
        for tensor in tensors
    ]
    torch.cuda.current_stream(tensors[0].device).record_event().synchronize()
    return copies


def send(host: Tensor, out: Tensor) -> None:
    """Copy to the device; returns before it is done, `host` is no longer needed then."""
    out.copy_(host.pin_memory() if out.is_cuda else host, non_blocking=True)
