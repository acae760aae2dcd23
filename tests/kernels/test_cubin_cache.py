"""Machine code is compiled once, and never taken for that of another source."""

from pathlib import Path

import pytest

from kernels import cubin_cache, nvrtc
from kernels.cubin_cache import compiled_once, is_compiled

pytestmark = pytest.mark.skipif(
    not nvrtc.is_available(), reason="this build of PyTorch brings no CUDA compiler"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cubin_cache, "_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def counted(code: bytes, calls: list[bytes]) -> bytes:
    calls.append(code)
    return code


def test_once(folder: Path) -> None:
    calls: list[bytes] = []
    assert not is_compiled(b"source", ["-O"])
    for _ in range(3):
        assert compiled_once(b"source", ["-O"], lambda: counted(b"code", calls)) == b"code"
    assert calls == [b"code"]
    assert is_compiled(b"source", ["-O"])
    assert not is_compiled(b"source", [])
    assert [path.suffix for path in folder.iterdir()] == [".cubin"]


@pytest.mark.parametrize(
    ("source", "options"),
    [(b"other", ["-O"]), (b"source", ["-O", "-DN=1"]), (b"source-O", [""]), (b"source", [])],
)
def test_what_differs_is_compiled_anew(source: bytes, options: list[str]) -> None:
    compiled_once(b"source", ["-O"], lambda: b"first")
    assert compiled_once(source, options, lambda: b"second") == b"second"


def test_a_folder_that_cannot_be_used_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(cubin_cache, "_folder", lambda: tmp_path / "file" / "below")
    calls: list[bytes] = []
    for _ in range(2):
        assert compiled_once(b"s", [], lambda: counted(b"code", calls)) == b"code"
    assert len(calls) == 2


def test_a_header_belongs_to_the_source(tmp_path: Path) -> None:
    source, header = tmp_path / "own.cu", tmp_path / "part.cuh"
    header.write_text("__device__ float factor() { return 2.0f; }")
    source.write_text(
        '#include "part.cuh"\nextern "C" __global__ void k(float* x) { *x *= factor(); }'
    )
    first = nvrtc.compile_source(source, [], "sm_90")
    assert nvrtc.compile_source(source, [], "sm_90") == first
    header.write_text("__device__ float factor() { return 3.0f; }")
    assert nvrtc.compile_source(source, [], "sm_90") != first
