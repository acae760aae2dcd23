"""The source of the CUDA fusion kernel, run by threads of the CPU."""

import ctypes
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.device import Device
from kernels.state_fusion import cuda_fwd
from kernels.state_fusion.gated import gated_fusion_ref, merge_taps

HERE = Path(__file__).parent / "cuda_on_cpu"
COMPILER = shutil.which("g++")
EPS = 1e-5

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def build(folder: Path, defines: dict[str, int]) -> ctypes.CDLL:
    """The kernel as a library of this machine."""
    assert COMPILER is not None
    library = folder / "fusion.so"
    macros = [f"-D{name}={value}" for name, value in defines.items()]
    folders = [f"-I{HERE}", f"-I{cuda_fwd.SOURCE.parent}"]
    options = ["-std=c++20", "-O1", "-w", "-fPIC", "-shared", "-pthread"]
    command = [COMPILER, *options, *macros, *folders, "-o", str(library)]
    subprocess.run([*command, str(HERE / "fusion_on_cpu.cpp")], check=True)  # noqa: S603
    return ctypes.CDLL(str(library))


def run(library: ctypes.CDLL, how: cuda_fwd.Plan, tensors: list[Tensor], out: Tensor) -> None:
    B, H, W, _ = out.shape
    grid = how.tiles, -(-H // how.rows), B
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (*tensors, out)]
    library.run(*grid, *pointers, H, W, how.rows, how.columns, ctypes.c_float(EPS))


# one token; a strip that hangs over; several strips and tiles; more rows than the ring holds
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((2, 1, 1, 64), {}),
        ((1, 5, 9, 64), {"rows": 5}),
        ((1, 17, 16, 64), {"rows": 17, "step": 2}),
        ((1, 15, 8, 64), {"rows": 8, "step": 1}),
        ((1, 3, 7, 128), {"rows": 3}),
        ((1, 2, 7, 640), {"rows": 2}),
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
    names = ("E", "PASSES", "STRIPS", "P", "GATE", "STEP")
    library = build(
        tmp_path, dict(zip(names, (E, how.passes, how.strips, P, stride, how.step), strict=True))
    )
    torch.manual_seed(0)
    state, u, projected, wide = (torch.randn(B, H, W, n).half() for n in (E, E, P, stride))
    gate, weight = wide[..., E:], 0.3 * torch.randn(3, E, 3, 3)
    D, gain, bias = torch.randn(E), torch.randn(E), torch.randn(E)
    out = torch.full((B, H, W, E), torch.nan, dtype=torch.float16)
    run(library, how, [state, u, projected, gate, merge_taps(weight), D, gain, bias], out)
    exact = [x.double() for x in (state, u, projected[..., 2:], gate, weight, D, gain, bias)]
    wanted = gated_fusion_ref(*exact, EPS)
    assert float((out.double() - wanted).norm() / wanted.norm()) < 5e-4
