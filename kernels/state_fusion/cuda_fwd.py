"""State fusion, read-out, LayerNorm and gate in one pass, in CUDA C++ (`gated_fusion.cu`).

What Triton cannot say makes it faster than the kernel beside it: a thread keeps the taps of its two
channels in registers, rows of the map stay in shared memory for as long as any tap reaches them,
and the number of channels need be no power of two.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from kernels import nvrtc
from kernels.device import Device, describe_device
from kernels.layout import as_tokens

SOURCE: Final = Path(__file__).with_name("gated_fusion.cu")
# as in the source
WIDTH: Final = 7
REACH: Final = 5
# more threads would leave each too few registers for its taps
_MAX_THREADS: Final = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch of maps is shared out.

    Attributes:
        passes: pairs of channels of a thread.
        threads, strips, tiles: threads of a block, strips side by side in it, blocks that cover a
            row of the map.
        rows: of the map that a block works on.
        step: rows between two meetings of a block's threads; two if the ring then fits.
        columns: that a row of the ring holds.
        shared_bytes: of a block.
    """

    passes: int
    threads: int
    strips: int
    tiles: int
    rows: int
    step: int
    columns: int
    shared_bytes: int


def plan(shape: tuple[int, int, int, int], device: Device) -> Plan | None:
    """The widest tiles that fit a block; None: not even the narrowest do.

    Args:
        shape: B, H, W, E.
    """
    B, H, W, E = shape
    if E % 64:
        return None
    passes = 1 if E // 2 <= _MAX_THREADS else 2
    group = E // 2 // passes
    if group * 2 * passes != E or group % 32 or group > _MAX_THREADS:
        return None
    across = -(-W // WIDTH)
    # the barriers of the strips are numbered, up to 15
    for most in range(min(across, _MAX_THREADS // group, 8), 0, -1):
        tiles = -(-across // most)
        strips = -(-across // tiles)
        columns = _columns(strips, tiles, across * WIDTH)
        rows = _rows(B * tiles, H, device.multiprocessors)
        for step in (2, 1):
            ring = min(2 * (REACH + step), H) * columns * E * 2
            scratch = strips * 2 * (group // 32) * 8 * 4
            shared = ring + scratch + (rows + 2 * REACH) * 4
            if shared <= device.shared_bytes:
                return Plan(passes, group * strips, strips, tiles, rows, step, columns, shared)
    return None


def _columns(strips: int, tiles: int, width: int) -> int:
    """The most columns that any tile reaches."""
    own = strips * WIDTH
    return max(
        min((tile + 1) * own + REACH, width) - max(tile * own - REACH, 0) for tile in range(tiles)
    )


def _rows(blocks: int, H: int, multiprocessors: int) -> int:
    """Rows of a block, so that all blocks together take the least time.

    A block first fills its ring, which is taken to last as long as computing two rows.
    """

    def cost(rows: int) -> int:
        waves = -(-blocks * -(-H // rows) // multiprocessors)
        return waves * (rows + 2)

    return min(range(H, 0, -1), key=cost)


def plan_for(state: Tensor) -> Plan | None:
    """The plan for a (B, H, W, E) map, or None: this kernel cannot serve it."""
    if not nvrtc.can_serve(state):
        return None
    B, H, W, E = state.shape
    device = describe_device(state.device)
    # asynchronous copies to shared memory came with 8.0
    return plan((B, H, W, E), device) if device.capability >= (8, 0) else None


def defines_of(
    how: Plan, W: int, E: int, projected: int, gate_stride: int, dtype: torch.dtype
) -> tuple[tuple[str, int], ...]:
    """What is compiled in for maps of W columns and E channels.

    Args:
        projected: values of a token in the map whose last one is C.
        gate_stride: elements between two tokens of the gate.
    """
    return (
        ("E", E),
        ("PASSES", how.passes),
        ("STRIPS", how.strips),
        ("P", projected),
        ("GATE", gate_stride),
        ("STEP", how.step),
        ("ACROSS", min(-(-W // WIDTH), 3)),
        ("WHOLE", int(W % WIDTH == 0)),
        ("BFLOAT", int(dtype == torch.bfloat16)),
    )


def gated_fusion_cuda(
    state: Tensor,
    u: Tensor,
    projected: Tensor,
    gate: Tensor,
    weight: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    how: Plan,
) -> Tensor:
    """Contract and arguments of `gated_fusion_triton`; float16 or bfloat16.

    Args:
        how: `plan_for(state)`.

    Raises:
        CudaError: the kernel cannot be compiled, loaded or launched.
    """
    state, u, projected = state.contiguous(), u.contiguous(), projected.contiguous()
    gate, gate_stride = as_tokens(gate)
    if gate_stride % 2 or gate.data_ptr() % 4:
        gate = gate.contiguous()
        gate_stride = gate.shape[-1]
    B, H, W, E = state.shape
    out = torch.empty_like(state)
    defines = defines_of(how, W, E, projected.shape[-1], gate_stride, state.dtype)
    kernel = nvrtc.load_kernel(SOURCE, "gated_fusion", defines, state.device)
    arguments = (state, u, projected, gate, weight, D, norm_weight, norm_bias, out)
    kernel.launch(
        (how.tiles, -(-H // how.rows), B),
        how.threads,
        how.shared_bytes,
        (*arguments, H, W, how.rows, how.columns, norm_eps),
    )
    return out
