"""Kernels that begin while the one before ends: all of them wait, and write nothing before."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernels

FOLDER = Path(kernels.__file__).parent


def launched() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Triton kernels that are launched for inference, with their file's name in front."""
    for path in sorted(FOLDER.glob("*/triton_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            node.func.value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Subscript)
            and isinstance(node.func.value, ast.Name)
        }
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name in names:
                yield f"{path.parent.name}/{path.stem}:{node.name}", node


def calls(node: ast.AST) -> list[str]:
    """What is called inside, in any order."""
    found = (own.func for own in ast.walk(node) if isinstance(own, ast.Call))
    return [ast.unparse(function) for function in found]


# the training step's are launched as usual
KERNELS = [own for own in launched() if "triton_scan" not in own[0]]


def test_all_kernels_are_looked_at() -> None:
    assert len(KERNELS) >= 20


@pytest.mark.parametrize(("name", "kernel"), KERNELS, ids=[name for name, _ in KERNELS])
def test_a_kernel_waits_before_it_writes(name: str, kernel: ast.FunctionDef) -> None:
    waits = [i for i, line in enumerate(kernel.body) if "await_predecessor" in calls(line)]
    # at the top level: a program that does not wait would let others go on too early
    assert len(waits) == 1, name
    assert ast.unparse(kernel.body[waits[0]]) == "await_predecessor(OVERLAP)"
    for line in kernel.body[: waits[0]]:
        assert not any(call.startswith(("tl.store", "tl.atomic")) for call in calls(line)), name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/triton_*.py")), ids=lambda p: p.parent.name)
def test_every_launch_allows_it(path: Path) -> None:
    if path.stem == "triton_scan":
        pytest.skip("the training step's kernels are launched as usual")
    text = path.read_text(encoding="utf-8")
    launches = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Subscript)
        and ast.unparse(node.func).startswith("_")
    ]
    assert launches
    for launch in launches:
        unpacked = [ast.unparse(own.value) for own in launch.keywords if own.arg is None]
        assert "overlapping()" in unpacked


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*.cu")), ids=lambda p: p.stem)
def test_a_cuda_kernel_waits(path: Path) -> None:
    assert "await_predecessor();" in path.read_text(encoding="utf-8")
