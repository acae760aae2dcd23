"""Depthwise 3x3 convolutions with their neighbours in CUDA C++ (`depthwise.cu`).

Walking down the map, a thread reads and converts each value once for the three rows that it
reaches; the Triton kernel beside this one does so for each of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from kernels import nvrtc
from kernels.device import Device, describe_device
from kernels.layout import as_tokens

SOURCE: Final = Path(__file__).with_name("depthwise.cu")
# as in the source
WIDTH: Final = 7
_WARP: Final = 32
# of a block, if one strip does not need more
_THREADS: Final = 256
_MAX_THREADS: Final = 512
# threads of a multiprocessor, which their registers limit, and how often they are to change
_RESIDENT: Final = 512
_ROUNDS: Final = 3
_HALVES: Final = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch of maps is shared out.

    Attributes:
        group: threads of a strip, two channels each.
        strips: side by side in a block.
        channel_blocks: groups that together have all channels.
        segments: parts of a map, one above the other.
        rows: of a segment.
        units: strips of all segments of all maps.
    """

    group: int
    strips: int
    channel_blocks: int
    segments: int
    rows: int
    units: int


def plan(shape: tuple[int, int, int, int], device: Device, *, with_statistics: bool) -> Plan | None:
    """How maps (B, H, W, C) are shared out, or None where the kernel does not serve them."""
    B, H, W, C = shape
    if device.capability < (8, 0) or C % (2 * _WARP):
        return None
    warps = C // 2 // _WARP
    # statistics need all channels of a token
    own = warps if with_statistics else max(n for n in (1, 2, 3, 4) if warps % n == 0)
    group = own * _WARP
    if group > _MAX_THREADS:
        return None
    across = -(-W // WIDTH)
    columns = B * across * warps * _WARP
    rows = _rows(H, columns, _ROUNDS * _RESIDENT * device.multiprocessors)
    segments = -(-H // rows)
    return Plan(
        group=group,
        strips=max(1, _THREADS // group),
        channel_blocks=warps // own,
        segments=segments,
        rows=rows,
        units=B * across * segments,
    )


def _rows(H: int, threads: int, wanted: int) -> int:
    """Rows of a segment: as many as leave enough threads; each segment reads two rows besides."""
    segments = min(-(-H // WIDTH), max(1, -(-wanted // threads)))
    return -(-H // segments)


def plan_for(x: Tensor, *, with_statistics: bool) -> Plan | None:
    """The plan for these maps, or None where the Triton kernel serves them better.

    Args:
        x: (B, H, W, C), a token's values contiguous.
    """
    if not (x.is_cuda and nvrtc.is_available() and x.dtype in _HALVES):
        return None
    # pairs of channels are read at once
    if x.data_ptr() % 4 or any(step % 2 for step in x.stride()[:-1]):
        return None
    device = describe_device(x.device)
    B, H, W, C = x.shape
    how = plan((B, H, W, C), device, with_statistics=with_statistics)
    if how is None:
        return None
    # few threads wait for each row in turn: a strip a program is faster then
    threads = how.units * how.channel_blocks * how.group
    return how if threads >= _RESIDENT * device.multiprocessors // 2 else None


def defines_of(
    how: Plan,
    W: int,
    C: int,
    stride: int,
    dtype: torch.dtype,
    *,
    with_silu: bool,
    with_statistics: bool,
    with_offset: bool,
) -> tuple[tuple[str, int], ...]:
    """What is compiled in for maps of W columns and C channels, tokens `stride` elements apart."""
    return (
        ("C", C),
        ("STRIDE", stride),
        ("GROUP", how.group),
        ("STRIPS", how.strips),
        ("SILU", int(with_silu)),
        ("STATISTICS", int(with_statistics)),
        ("OFFSET", int(with_offset)),
        ("WHOLE", int(W % WIDTH == 0)),
        ("BFLOAT", int(dtype == torch.bfloat16)),
    )


def depthwise_cuda(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    how: Plan,
    *,
    with_silu: bool,
    norm_eps: float | None = None,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """SiLU of the convolution, or its sum with x; see `position_encoding_triton`.

    Args:
        x: (B, H, W, C) float16 or bfloat16.
        weight: (9, C) float32, row-major taps.
        bias: (C,) float32.
        how: `plan_for(x, with_statistics=norm_eps is not None)`.
        norm_eps: of the LayerNorm that follows, whose statistics are then computed as well.
        offset: (C,) float32, what the statistics leave out.

    Returns:
        the map, and (2, B, H, W) float32 statistics, or None.

    Raises:
        CudaError: the kernel cannot be compiled, loaded or launched.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    out = torch.empty((B, H, W, C), dtype=x.dtype, device=x.device)
    statistics = None
    if norm_eps is not None:
        statistics = torch.empty((2, B, H, W), dtype=torch.float32, device=x.device)
    defines = defines_of(
        how,
        W,
        C,
        stride,
        x.dtype,
        with_silu=with_silu,
        with_statistics=statistics is not None,
        with_offset=offset is not None,
    )
    kernel = nvrtc.load_kernel(SOURCE, "depthwise", defines, x.device)
    kernel.launch(
        (-(-how.units // how.strips), how.channel_blocks, 1),
        how.group * how.strips,
        how.strips * 2 * (how.group // _WARP) * 8 * 4,
        (
            x,
            weight,
            bias,
            bias if offset is None else offset,
            out,
            bias if statistics is None else statistics,
            how.units,
            B,
            H,
            W,
            how.segments,
            how.rows,
            norm_eps or 0.0,
        ),
    )
    return out, statistics
