"""How the GPU kernels see a batch of maps: tokens in raster order, channels contiguous."""

import torch
from torch import Tensor


def as_tokens(x: Tensor) -> tuple[Tensor, int]:
    """A (B, H, W, C) map as tokens.

    Returns:
        the map, copied only when its channels are not contiguous or its tokens not evenly spaced
        (a slice of the channels of a wider map is fine), and the elements between two tokens.

    Raises:
        ValueError: not four axes, or an empty one.
    """
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"a map must be (B, H, W, C), none empty, got {tuple(x.shape)}")
    C = x.shape[3]
    step = next((x.stride(d) // inner for d, inner in _steps(x) if x.shape[d] > 1), C)
    even = all(x.shape[d] == 1 or x.stride(d) == inner * step for d, inner in _steps(x))
    if even and step >= C and (C == 1 or x.stride(3) == 1):
        return x, step
    return x.contiguous(), C


def _steps(x: Tensor) -> tuple[tuple[int, int], ...]:
    """Axis and the tokens it steps over."""
    return (2, 1), (1, x.shape[2]), (0, x.shape[1] * x.shape[2])


def is_precise(dtype: torch.dtype) -> bool:
    """Whether the slow, precise functions are worth it for this dtype."""
    return dtype == torch.float32


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def tiling(B: int, H: int, W: int, block_t: int) -> tuple[int, int]:
    """How a batch of maps is cut into tiles of `block_t` tokens.

    Returns:
        width of a rectangle, or 0 for raster order (see `triton_math.tile_tokens`); number of
        tiles. Rectangles where they waste little: they read fewer neighbours twice.
    """
    width = 8 if block_t >= 64 else 4
    height = block_t // width
    tiles = -(-H // height) * -(-W // width) if height else 0
    if block_t >= 16 and tiles * block_t <= 1.15 * H * W:
        return width, B * tiles
    return 0, -(-B * H * W // block_t)
