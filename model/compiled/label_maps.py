"""Class maps of a batch as arrays of the host: one launch, one copy."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.label_map.triton_fwd import label_maps


def label_maps_on_host(
    logits: Tensor, resized_hw: tuple[int, int], original_hws: Sequence[tuple[int, int]]
) -> list[NDArray[np.uint8]]:
    """Contract of `model.resizing.logits_to_label_map` for a batch; waits for the device.

    Args:
        logits: (B, h, w, K) of any strides; float16, bfloat16 or float32, K <= 256.
        resized_hw: size of the network's input before padding.
        original_hws: (H, W) of every photograph.

    Returns:
        Per image (H, W) uint8.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    sizes = [height * width for height, width in original_hws]
    flat = torch.empty(sum(sizes), dtype=torch.uint8, device=logits.device)
    label_maps(logits, resized_hw, original_hws, flat)
    if flat.is_cuda:
        # torch reuses a pinned block as soon as the arrays made of it are gone
        on_host = torch.empty(flat.shape, dtype=torch.uint8, pin_memory=True)
        flat = on_host.copy_(flat, non_blocking=True)
        torch.cuda.current_stream(logits.device).record_event().synchronize()
    parts = flat.numpy()
    ends = np.cumsum(sizes)[:-1]
    return [part.reshape(hw) for part, hw in zip(np.split(parts, ends), original_hws, strict=True)]
