"""The selective scan in CUDA C++ (`selective_scan.cu`).

It issues half the instructions of the Triton kernel beside it: chunks are twice as long and belong
to one thread, so that little is exchanged between lanes; the softplus needs no logarithm, and the
tensor cores form the product B u as well. Warps take turns at the tiles of a picture instead of
working on one together, and wait for each other only to hand on the state between tiles.

A picture is cut into segments, in two launches, where pictures and channels are too few to fill the
chip: nearly twice the work, for all multiprocessors instead of some.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from kernels import nvrtc
from kernels.device import Device, describe_device

SOURCE: Final = Path(__file__).with_name("selective_scan.cu")
# as in the source
TILE: Final = 32
CHANNELS: Final = 32
_MAX_RANK: Final = 64
# warps of a multiprocessor with which it is about as fast as with more
_BUSY: Final = 12
_MAX_IMAGES: Final = 65535
# tiles of a map from which on, and blocks up to which, two passes over segments are faster than one
# over the whole
_MANY_TILES: Final = 33
_FEW_BLOCKS: Final = 64
# tiles of a segment: one for each warp
_LEAST_TILES: Final = 4
# of a map; the last one folds what all others do to a state
_MAX_SEGMENTS: Final = 64
# passes over a map, as in the source
_WHOLE, _ENDS, _SEGMENTS = range(3)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch of maps is shared out.

    Attributes:
        columns, images: blocks side by side, of 32 channels each, and one behind the other.
        segments, length: of a map, and their tokens.
        warps: of a block, which take tiles of 32 tokens in turns.
        piece: bytes of `projected` that are copied at once.
        whole: whether tiles cover a map exactly.
        shared_bytes: of a block.
    """

    columns: int
    images: int
    segments: int
    length: int
    warps: int
    piece: int
    whole: bool
    shared_bytes: int


def plan(shape: tuple[int, int, int, int], R: int, device: Device) -> Plan | None:
    """How maps (B, H, W, D) are shared out, or None where the kernel does not serve them.

    Args:
        R: rank of the step sizes.
    """
    B, H, W, D = shape
    if device.capability != (9, 0) or D % CHANNELS or B > _MAX_IMAGES:
        return None
    if R % 2 or not 0 < R <= _MAX_RANK:
        return None
    L, P = H * W, R + 2
    blocks = B * D // CHANNELS
    segments, length = _segments(blocks, L, resident(R), device)
    blocks *= segments
    warps = min((4, 2), key=lambda warps: _time(blocks, warps, resident(R), device))
    if length <= 2 * TILE:
        warps = 2
    pieces_of_eight = _cdiv(R, 8)
    slot = TILE * CHANNELS * 2 + _cdiv(TILE * P * 2 + 16 * pieces_of_eight, 128) * 128
    return Plan(
        columns=D // CHANNELS,
        images=B,
        segments=segments,
        length=length,
        warps=warps,
        # a map must begin where so many bytes can be copied
        piece=4 if L * P % 8 else 16,
        whole=L % TILE == 0,
        # two slots a warp, states between tiles, barriers
        shared_bytes=warps * (2 * slot + 8) + 2 * CHANNELS * 4,
    )


def resident(R: int) -> int:
    """Warps that a multiprocessor holds, as in the source."""
    return 12 if R > 32 else 16


def _segments(blocks: int, L: int, resident: int, device: Device) -> tuple[int, int]:
    """How many segments a map has, and their length in tokens.

    Args:
        blocks: that serve whole maps.
    """
    at_once = resident // 4 * device.multiprocessors
    tiles = _cdiv(L, TILE)
    # as many as are at work at the same time; two passes over two thirds of a map gain nothing
    segments = min(at_once // blocks, tiles // _LEAST_TILES, _MAX_SEGMENTS)
    if segments < 2:
        return 1, L
    length = _cdiv(tiles, segments) * TILE
    return _cdiv(L, length), length


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _time(blocks: int, warps: int, resident: int, device: Device) -> float:
    """Until the last of the blocks is done, by the blocks that its multiprocessor runs.

    All of them take equally long; so those that do not fit at once come when the first ones are
    done, and what is left for the end may be too few warps to hide what they wait for.
    """
    at_once = resident // warps
    turns, rest = divmod(blocks, at_once * device.multiprocessors)
    last = max(_cdiv(rest, device.multiprocessors), _BUSY / warps) if rest else 0
    return turns * at_once + last


def plan_for(u: Tensor, projected: Tensor, dt_weight: Tensor) -> Plan | None:
    """The plan for these maps, or None where the kernel does not serve them.

    Args:
        u, projected, dt_weight: as for `low_rank_scan_cuda`.
    """
    if not nvrtc.can_serve(u):
        return None
    if any(own.data_ptr() % 16 or not own.is_contiguous() for own in (u, projected)):
        return None
    B, H, W, D = u.shape
    device = describe_device(u.device)
    return plan((B, H, W, D), dt_weight.shape[0], device)


def passes(how: Plan) -> tuple[int, ...]:
    """The launches that a plan takes."""
    return (_ENDS, _SEGMENTS) if how.segments > 1 else (_WHOLE,)


def defines_of(
    how: Plan, D: int, R: int, dtype: torch.dtype, which: int
) -> tuple[tuple[str, int], ...]:
    """What is compiled in for maps of D channels and step sizes of rank R.

    Args:
        which: of the `passes`.
    """
    return (
        ("D", D),
        ("P", R + 2),
        ("R", R),
        ("WARPS", how.warps),
        ("PIECE", how.piece),
        ("WHOLE", int(how.whole)),
        ("PASS", which),
        ("BFLOAT", int(dtype == torch.bfloat16)),
    )


def low_rank_scan_cuda(
    u: Tensor, projected: Tensor, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, how: Plan
) -> Tensor:
    """Contract of `low_rank_scan_triton`; float16 or bfloat16.

    A value of u that is not finite may turn up to 31 tokens before it into NaN.

    Args:
        u: (B, H, W, D), contiguous, at a multiple of 16 bytes.
        projected: (B, H, W, R + 2), dtype of u, contiguous, at a multiple of 16 bytes.
        dt_weight: (R, D), dtype of u, contiguous.
        dt_bias, A: (D,) float32.
        how: `plan_for(u, projected, dt_weight)`.

    Raises:
        CudaError: the kernel cannot be compiled, loaded or launched.
    """
    R, D = dt_weight.shape
    out = torch.empty_like(u)
    ends = dt_bias if how.segments == 1 else _ends_of(how, D, dt_bias)
    for which in passes(how):
        defines = defines_of(how, D, R, u.dtype, which)
        kernel = nvrtc.load_kernel(SOURCE, "selective_scan", defines, u.device)
        kernel.launch(
            (how.columns, how.segments - (which == _ENDS), how.images),
            32 * how.warps,
            how.shared_bytes,
            (
                u,
                projected,
                dt_weight,
                dt_bias,
                A,
                out,
                ends,
                u.shape[1] * u.shape[2],
                how.length,
            ),
        )
    return out


def _ends_of(how: Plan, D: int, like: Tensor) -> Tensor:
    """For what segments do to a state, all but the last ones."""
    return like.new_empty((how.images, how.segments - 1, 2, D))
