"""The sources of the CUDA kernels, run by threads of the CPU."""

import ctypes
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.device import Device
from kernels.expand_downsample import cuda_fwd as downsample_cuda
from kernels.expand_downsample.reference import expand_downsample_ref
from kernels.linear import cuda_fwd as linear_cuda
from kernels.linear.reference import Activation, linear_ref
from kernels.selective_scan import cuda_fwd as scan_cuda
from kernels.selective_scan.low_rank import low_rank_scan_ref
from kernels.state_fusion import cuda_fwd
from kernels.state_fusion.gated import gated_fusion_ref, merge_taps
from tests.kernels.inference_ops import shift_of, statistics

HERE = Path(__file__).parent / "cuda_on_cpu"
COMPILER = shutil.which("g++")
MORE_OPTIONS = os.environ.get("CUDA_ON_CPU_OPTIONS", "").split()  # noqa: TID251 - of test_cuda_races
EPS = 1e-5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    # threads that wait for each other for ever can only be ended with the process
    pytest.mark.timeout(120, method="thread"),
]


def build(kernel: str, source: Path, folder: Path, defines: dict[str, int]) -> ctypes.CDLL:
    """The kernel as a library of this machine."""
    assert COMPILER is not None
    library = folder / f"{kernel}.so"
    macros = [f"-D{name}={value}" for name, value in defines.items()]
    shared = source.parents[1]
    folders = [f"-I{HERE}", f"-I{HERE / kernel}", f"-I{source.parent}", f"-I{shared}"]
    options = ["-std=c++20", "-O1", "-w", "-fPIC", "-shared", "-pthread", *MORE_OPTIONS]
    command = [COMPILER, *options, *macros, *folders, "-o", str(library)]
    subprocess.run([*command, str(HERE / kernel / "run.cpp")], check=True)  # noqa: S603
    return ctypes.CDLL(str(library))


def run(library: ctypes.CDLL, how: cuda_fwd.Plan, tensors: list[Tensor], out: Tensor) -> None:
    B, H, W, _ = out.shape
    grid = how.tiles, -(-H // how.rows), B
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (*tensors, out)]
    library.run(*grid, *pointers, H, W, how.rows, how.columns, ctypes.c_float(EPS))


# one token; a strip that hangs over; several strips and tiles; more rows than the ring holds
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((2, 1, 1, 64), {}),
        ((1, 5, 9, 64), {"rows": 5}),
        ((1, 17, 16, 64), {"rows": 17, "step": 2}),
        ((1, 15, 8, 64), {"rows": 8, "step": 1}),
        # widths between the narrowest and the widest
        pytest.param((1, 3, 7, 128), {"rows": 3}, marks=pytest.mark.nightly),
        pytest.param((1, 2, 7, 640), {"rows": 2}, marks=pytest.mark.nightly),
        ((1, 2, 7, 1536), {"rows": 2}),
    ],
    ids=str,
)
def test_fusion(shape: tuple[int, int, int, int], changes: dict[str, Any], tmp_path: Path) -> None:
    B, H, W, E = shape
    plan = cuda_fwd.plan(shape, Device((9, 0), 132, 232448))
    assert plan is not None
    how = replace(plan, **changes)
    P, stride = 3, 2 * E
    defines = dict(cuda_fwd.defines_of(how, W, E, P, stride, torch.float16))
    library = build("fusion", cuda_fwd.SOURCE, tmp_path, defines)
    torch.manual_seed(0)
    state, u, projected, wide = (torch.randn(B, H, W, n).half() for n in (E, E, P, stride))
    gate, weight = wide[..., E:], 0.3 * torch.randn(3, E, 3, 3)
    D, gain, bias = torch.randn(E), torch.randn(E), torch.randn(E)
    out = torch.full((B, H, W, E), torch.nan, dtype=torch.float16)
    run(library, how, [state, u, projected, gate, merge_taps(weight), D, gain, bias], out)
    exact = [x.double() for x in (state, u, projected[..., 2:], gate, weight, D, gain, bias)]
    wanted = gated_fusion_ref(*exact, EPS)
    assert float((out.double() - wanted).norm() / wanted.norm()) < 5e-4


# one row; K that is no multiple of a block; fewer stages than blocks of K; several tiles a block,
# an odd number of them, the last one not full
@pytest.mark.parametrize(
    ("M", "K", "N", "stages", "blocks", "activation"),
    [
        (1, 64, 128, 6, 1, "relu"),
        (300, 96, 256, 2, 2, "silu_second_half"),
        (520, 192, 128, 2, 1, "gelu"),
        (140, 256, 384, 6, 6, "silu_second_half"),
        (70, 768, 128, 4, 1, "gelu"),
    ],
    ids=str,
)
def test_product(
    M: int, K: int, N: int, stages: int, blocks: int, activation: Activation, tmp_path: Path
) -> None:
    kinds = ["none", "relu", "gelu", "silu_second_half"]
    has_offset = activation == "gelu"
    defines = {"K": K, "N": N, "STAGES": stages, "NORM": 1, "SHIFT": int(has_offset)}
    defines["CONSUMERS"] = linear_cuda.CONSUMERS
    defines["ACTIVATION"] = kinds.index(activation)
    library = build("product", linear_cuda.SOURCE, tmp_path, defines)
    torch.manual_seed(0)
    x, weight = torch.randn(M, K).half(), (torch.randn(N, K) * K**-0.5).half()
    bias, offset = torch.randn(N), torch.randn(K) * has_offset
    out = torch.full((M, N), torch.nan, dtype=torch.float16)
    columns = [bias, weight.float().sum(1), statistics(x, offset), shift_of(weight, offset)]
    tensors = [x, weight, out, *columns]
    library.run(blocks, *(ctypes.c_void_p(own.data_ptr()) for own in tensors), M)
    exact = [own.double() for own in (x, weight, bias)]
    wanted = linear_ref(*exact, norm_eps=EPS, offset=offset, activation=activation)
    assert float((out.double() - wanted).norm() / wanted.norm()) < 5e-4


# one position; the same with a row too many; an odd map with strips, in one block of many tasks;
# rows longer than a unit, odd and even; channels that fill no block of the copies, or many
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((2, 1, 1, 16), {}),
        ((3, 5, 7, 32), {"strips": 2, "rows": 2, "blocks": 2, "units": 2}),
        ((1, 4, 67, 16), {"blocks": 1, "strips": 1, "rows": 2}),
        ((3, 3, 56, 64), {"blocks": 4, "stages": 2}),
        ((1, 4, 66, 16), {"positions": 16, "units": 4, "tiles": 5}),
        ((2, 2, 14, 384), {"stages": 2}),
    ],
    ids=str,
)
def test_down_sampling(
    shape: tuple[int, int, int, int], changes: dict[str, Any], tmp_path: Path
) -> None:
    B, H, W, C = shape
    N = 256 if C == 32 else 128
    plan = downsample_cuda.plan(shape, N, Device((9, 0), 132, 232448))
    assert plan is not None
    how = replace(plan, **changes)
    defines = dict(downsample_cuda.defines_of(how, W, C, N, torch.float16))
    library = build("downsample", downsample_cuda.SOURCE, tmp_path, defines)
    torch.manual_seed(0)
    # tokens of a wider map
    x, weight = torch.randn(B, H, W, C + 8).half()[..., :C], (torch.randn(N, C) * C**-0.5).half()
    bias, shift, taps = torch.randn(N), torch.randn(N), 0.3 * torch.randn(N, 1, 3, 3)
    out = torch.full((B, -(-H // 2), -(-W // 2), N), torch.nan, dtype=torch.float16)
    tensors = [x, weight, bias, taps.reshape(N, 9).t().contiguous(), shift, out]
    pointers = [ctypes.c_void_p(own.data_ptr()) for own in tensors]
    library.run(how.blocks, *pointers, B, H, W, C + 8, how.tiles, how.strips, how.rows)
    exact = [own.double() for own in (x, weight, bias, taps, shift)]
    wanted = expand_downsample_ref(*exact)
    assert float((out.double() - wanted).norm() / wanted.norm()) < 5e-4


def scan(
    shape: tuple[int, int, int, int],
    bias: Tensor,
    A: Tensor,
    R: int,
    warps: int,
    segments: int,
    folder: Path,
) -> tuple[Tensor, Tensor]:
    """What the kernel gives for random maps, and the truth."""
    B, H, W, D = shape
    plan = scan_cuda.plan(shape, R, Device((9, 0), 132, 232448))
    assert plan is not None
    tiles = -(-(H * W) // (scan_cuda.TILE * segments))  # of a segment
    how = replace(plan, segments=segments, length=tiles * scan_cuda.TILE, warps=warps)
    torch.manual_seed(0)
    u, projected = torch.randn(B, H, W, D).half(), torch.randn(B, H, W, R + 2).half()
    projected[..., -1] = torch.nan  # C is no part of the scan
    weight = (torch.randn(R, D) * R**-0.5).half()
    out = torch.full_like(u, torch.nan)
    ends = torch.full((B, segments, 2, D), torch.nan)
    tensors = (u, projected, weight, bias, A, out, ends)
    pointers = [ctypes.c_void_p(own.data_ptr()) for own in tensors]
    for which in scan_cuda.passes(how):
        defines = dict(scan_cuda.defines_of(how, D, R, torch.float16, which))
        own = folder / str(which)
        own.mkdir()
        library = build("scan", scan_cuda.SOURCE, own, defines)
        begun = segments - 1 if which == 1 else segments
        library.run(how.columns, begun, how.images, *pointers, H * W, how.length)
    exact = [own.double() for own in (u, projected, weight.t(), bias, A)]
    return out, low_rank_scan_ref(*exact)


# less than a tile; several tiles a warp, the last one cut off; maps that begin where only four
# bytes can be copied; ranks that fill no piece of a product, or an odd number of pieces; segments
# of a whole number of turns, of less than one, the last one not full
@pytest.mark.parametrize(
    ("shape", "R", "warps", "segments"),
    [
        ((2, 3, 5, 64), 20, 2, 1),
        ((1, 12, 16, 32), 4, 2, 1),
        ((2, 11, 15, 32), 12, 4, 1),
        ((2, 16, 18, 64), 4, 4, 3),
        ((1, 10, 16, 32), 12, 2, 5),
        ((2, 15, 15, 32), 6, 2, 2),
    ],
    ids=str,
)
def test_scan(
    shape: tuple[int, int, int, int], R: int, warps: int, segments: int, tmp_path: Path
) -> None:
    D = shape[3]
    torch.manual_seed(1)
    A = -2 * torch.randn(D).abs() - 0.05
    got, wanted = scan(shape, torch.randn(D) - 2, A, R, warps, segments, tmp_path)
    assert float((got.double() - wanted).norm() / wanted.norm()) < 5e-4


def test_scan_with_extreme_steps(tmp_path: Path) -> None:
    """Softplus from underflow to its straight part, decay per token from 1 to exactly 0."""
    biases, rates = [-100.0, -20.0, 0.0, 20.0, 100.0], [-1e-6, -1.0, -200.0]
    bias = torch.tensor([bias for bias in biases for _ in range(6)] + [0.0, 1.0])
    A = torch.tensor(rates * 10 + rates[:2])
    got, wanted = scan((1, 9, 8, 32), bias, A, 2, 2, 1, tmp_path)
    assert got.isfinite().all()
    tolerance = 4 * torch.finfo(torch.float16).eps
    for channel in range(32):  # of its own, their states being of all sizes
        own, true = got[..., channel].double(), wanted[..., channel]
        floor = max(tolerance * float(true.abs().max()), 2**-24)
        torch.testing.assert_close(own, true, rtol=tolerance, atol=floor)
