"""The carried cache: what a GPU machine asks Triton for is in it, wherever it lies."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.precompile import module_keys, strip
from benchmarks.precompile_cuda import CudaSource, compile_cuda, loads_noted
from kernels import cubin_cache, nvrtc
from kernels.linear.forward import linear
from kernels.selective_scan.forward import low_rank_scan

needs_compiler = pytest.mark.skipif(
    not nvrtc.is_available(), reason="this build of PyTorch brings no CUDA compiler"
)
ROOT = Path(__file__).parents[2]
PRECOMPILE = """
import sys, pathlib
from benchmarks import precompile
from tests.benchmarks.test_precompile import runs
precompile.RUNS["few"] = lambda: runs("meta")
sys.argv = ["precompile", "--what", "few", "--out", sys.argv[1], "--moved-to", sys.argv[2]]
precompile.main()
"""
# the same launches with memory behind them, as a program on a GPU makes them
LAUNCH = """
import sys, triton, torch
from benchmarks.kernel_resources import compiled_only
from tests.benchmarks.test_precompile import runs
hits = []
triton.knobs.compilation.listener = lambda cache_hit, **_: hits.append(cache_hit)
with torch.inference_mode(), compiled_only(lambda name, kernel: None):
    for _, run in sorted(runs("cpu"), reverse=sys.argv[1] == "reversed"):
        run()
print(len(hits), hits.count(False))
"""


def runs(device: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Some kernels, one of them on a slice of a wider map, which Triton compiles otherwise.

    The first two call the same function, so their keys depend on which one is launched first.
    """
    from kernels.depthwise.triton_fwd import conv_silu_triton
    from kernels.linear.triton_fwd import linear_triton
    from kernels.mask_runs.triton_fwd import mask_edges_triton

    empty = partial(torch.empty, device=device)
    weight, bias = empty((9, 16)), empty(16)
    wide = empty((1, 4, 4, 40))
    yield "a", lambda: linear_triton(wide, empty((16, 40)), bias, activation="silu_second_half")
    yield "b", lambda: conv_silu_triton(wide[..., :16], weight, bias)
    yield "c", lambda: conv_silu_triton(wide[..., 1:17], weight, bias)
    masks = empty((2, 28, 28)), empty((2, 4)), empty((2, 2), dtype=torch.int32)
    valid = empty(2, dtype=torch.bool)
    yield "d", lambda: mask_edges_triton(*masks, valid, columns=9, capacity=30)


def python(program: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own program; this process has Triton's interpreter
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "PYTHONPATH": ".", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.nightly
def test_a_moved_cache_serves_every_launch(tmp_path: Path) -> None:
    made, used = tmp_path / "made", tmp_path / "used"
    said = python(PRECOMPILE, str(made), str(used))
    assert "5 kernels" in said
    assert "0 failed" in said
    shutil.move(made, used)
    before = {file for file in used.rglob("*") if file.is_file()}
    for order in ("as noted", "reversed"):
        assert python(LAUNCH, order, TRITON_CACHE_DIR=str(used)).split() == ["5", "0"]
    assert {file for file in used.rglob("*") if file.is_file()} == before
    # where it is made once more, nothing is compiled either
    assert " 0 compiled" in python(PRECOMPILE, str(used), str(used))


def test_only_what_a_hit_reads_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "KEY"
    folder.mkdir()
    for name in ("f.json", "f.cubin", "f.ptx", "f.source", "__grp__f.json"):
        (folder / name).write_text("x")
    paths = {file.name: str(file) for file in folder.iterdir() if "__grp__" not in file.name}
    group = json.dumps({"child_paths": paths})
    (folder / "__grp__f.json").write_text(group)
    # another key of the same kernel
    other = tmp_path / "OTHER_KEY"
    other.mkdir()
    (other / "__grp__f.json").write_text(group)
    launcher = tmp_path / "MODULE" / "__triton_launcher.so"
    launcher.parent.mkdir()
    launcher.write_text("x")
    strip(tmp_path, Path("/elsewhere"))
    assert sorted(file.name for file in folder.iterdir()) == ["__grp__f.json", "f.cubin", "f.json"]
    for own in (folder, other):
        paths = json.loads((own / "__grp__f.json").read_text())["child_paths"]
        assert paths == {name: f"/elsewhere/KEY/{name}" for name in ("f.json", "f.cubin")}
    assert launcher.exists()


def test_a_launcher_is_found_with_and_without_the_program_file() -> None:
    assert len(set(module_keys("int x;"))) == 2


@needs_compiler
def test_what_a_gpu_would_load_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cubin_cache, "_folder", lambda: tmp_path)
    half = partial(torch.empty, dtype=torch.float16, device="meta")
    wide = partial(torch.empty, device="meta")
    found: dict[CudaSource, None] = {}
    with loads_noted(found):
        for rows in (100_000, 100_001):  # the same machine code
            linear(half(rows, 64), half(256, 64), wide(256), activation="relu")
        maps = half(512, 7, 8, 64), half(512, 7, 8, 6), half(4, 64)
        low_rank_scan(*maps, wide(64), wide(64))
    assert [own.name for own in found] == ["wide_product", "selective_scan"]
    assert [dict(own.defines)["BFLOAT"] for own in found] == [0, 0]
    for was_there in (False, True):
        outcomes = [compile_cuda(own) for own in found]
        assert outcomes == [(own.name, was_there, "") for own in found]
    assert len(list(tmp_path.iterdir())) == 2
    # outside, a map on `meta` is no GPU's
    assert not nvrtc.can_serve(half(1))


@needs_compiler
def test_a_source_that_does_not_compile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cubin_cache, "_folder", lambda: tmp_path)
    broken = tmp_path / "broken.cu"
    broken.write_text("undeclared;")
    name, was_there, reason = compile_cuda(CudaSource(broken, "broken", ()))
    assert (name, was_there) == ("broken", False)
    assert "broken.cu" in reason
