"""The wide half of a down-sampling in CUDA C++ (`expand_downsample.cu`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from kernels import nvrtc
from kernels.device import Device, describe_device
from kernels.layout import as_tokens

SOURCE: Final = Path(__file__).with_name("expand_downsample.cu")
# as in the source
BLOCK_CHANNELS: Final = 128
_DEPTH: Final = 64
_THREADS: Final = 384
_GROUPS: Final = 2
# alignment and barriers
_REST_BYTES: Final = 1024 + 256
_MAX_STAGES: Final = 6
# positions of a unit, and units of a tile: widths that the tensor cores were given instructions for
_TILES: Final = ((16, 4), (32, 2), (56, 1), (64, 1))
# where the weight leaves few registers for sums
_NARROW_TILES: Final = ((16, 2), (32, 1))
_MAX_CHANNELS: Final = 384
_WIDE: Final = 256
# of a task, in rows: nothing is multiplied yet when it begins
_START: Final = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch of maps is shared out.

    Attributes:
        positions: of a unit, a stretch of a row; even, like those of the answer's columns.
        units: side by side in a tile.
        halo: whether rows are longer than a unit; units then overlap by two positions.
        tiles: units of a row.
        strips: parts of a map, one above the other.
        rows: of the answer, of a strip.
        stages: rows in flight.
        blocks: of threads.
    """

    positions: int
    units: int
    halo: bool
    tiles: int
    strips: int
    rows: int
    stages: int
    blocks: int
    shared_bytes: int


def plan(shape: tuple[int, int, int, int], N: int, device: Device) -> Plan | None:
    """How maps (B, H, W, C) are shared out, or None where the kernel does not serve them."""
    B, H, W, C = shape
    if device.capability != (9, 0) or C % 16 or C > _MAX_CHANNELS or N % BLOCK_CHANNELS:
        return None
    answers, columns = _cdiv(H, 2), N // BLOCK_CHANNELS
    candidates = _TILES if C <= _WIDE else _NARROW_TILES
    positions, units = min(candidates, key=lambda tile: _computed(W, tile[0]))
    tiles = _units_of_a_row(W, positions)
    side_by_side = _cdiv(B * tiles, units)
    # each of them owns all channels; what does not fit at once comes later
    teams = max(1, device.multiprocessors // columns)
    rows = _cdiv(answers, _strips(answers, side_by_side, teams))
    strips = _cdiv(answers, rows)
    staging = 2 * _GROUPS * _cdiv(positions * units, 16) * 8 * 128
    stage = positions * units * _cdiv(C, _DEPTH) * 128
    stages = min(_MAX_STAGES, (device.shared_bytes - _REST_BYTES - staging) // stage)
    return Plan(
        positions=positions,
        units=units,
        halo=positions < W,
        tiles=tiles,
        strips=strips,
        rows=rows,
        stages=stages,
        blocks=columns * min(teams, side_by_side * strips),
        shared_bytes=_REST_BYTES + staging + stages * stage,
    )


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _units_of_a_row(W: int, positions: int) -> int:
    """With a halo a unit's first answer is its neighbour's."""
    is_whole = positions >= W
    return 1 if is_whole else _cdiv(_cdiv(W, 2), positions // 2 - 1)


def _computed(W: int, positions: int) -> tuple[int, int]:
    """Positions of a row that are computed, and units, of which fewer are better."""
    units = _units_of_a_row(W, positions)
    return units * positions, units


def _strips(answers: int, tiles: int, teams: int) -> int:
    """Strips with which the last of the teams is done first; each computes a row twice."""

    def rows(strips: int) -> int:
        return _cdiv(tiles * strips, teams) * (2 * _cdiv(answers, strips) + _START)

    return min(range(1, answers + 1), key=rows)


def plan_for(x: Tensor, N: int) -> Plan | None:
    """The plan for these maps, or None where the kernel does not serve them.

    Args:
        x: (B, H, W, C), a token's values contiguous.
    """
    if not nvrtc.can_serve(x):
        return None
    # the copy engine counts in 16 bytes
    if x.data_ptr() % 16 or any(step % 8 for step in x.stride()[:-1]):
        return None
    B, H, W, C = x.shape
    return plan((B, H, W, C), N, describe_device(x.device))


def defines_of(
    how: Plan, W: int, C: int, N: int, dtype: torch.dtype
) -> tuple[tuple[str, int], ...]:
    """What is compiled in for maps of W columns and C channels, answers of N channels."""
    return (
        ("C", C),
        ("N", N),
        ("P", how.positions),
        ("UNITS", how.units),
        ("HALO", int(how.halo)),
        ("ODD", W % 2),
        ("STAGES", how.stages),
        ("BFLOAT", int(dtype == torch.bfloat16)),
    )


def expand_downsample_cuda(
    x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor, taps_bias: Tensor, how: Plan
) -> Tensor:
    """Contract of `expand_downsample_ref`.

    Args:
        x: (B, H, W, C) float16 or bfloat16.
        weight: (N, C), dtype of x, contiguous.
        bias, taps_bias: (N,) float32.
        taps: (9, N) float32, row-major.
        how: `plan_for(x, N)`.

    Raises:
        CudaError: the kernel cannot be compiled, loaded or launched.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    OH, OW, N = _cdiv(H, 2), _cdiv(W, 2), weight.shape[0]
    out = torch.empty((B, OH, OW, N), dtype=x.dtype, device=x.device)
    defines = defines_of(how, W, C, N, x.dtype)
    kernel = nvrtc.load_kernel(SOURCE, "expand_downsample", defines, x.device)
    rows = x.as_strided((B * H, W, C), (W * stride, stride, 1))
    answers = how.positions // 2 - how.halo
    kernel.launch(
        (how.blocks, 1, 1),
        _THREADS,
        how.shared_bytes,
        (
            nvrtc.TensorMap(rows, (1, how.positions, _DEPTH)),
            nvrtc.TensorMap(out.view(B * OH, OW, N), (1, answers, 64)),
            weight,
            bias,
            taps,
            taps_bias,
            B,
            H,
            W,
            how.tiles,
            how.strips,
            how.rows,
        ),
    )
    return out
