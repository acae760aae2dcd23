"""The GPU kernels of the selective scan; on the CPU through the interpreter, small shapes only."""

import pytest
import torch
from torch import Tensor

from kernels import REFERENCE
from kernels.selective_scan.chunked import selective_scan_backward
from kernels.selective_scan.triton_scan import (
    BLOCK_D,
    BLOCK_L,
    selective_scan_backward_triton,
    selective_scan_triton,
    supports,
)
from tests.numerics import assert_no_worse_than

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = [(1, 1, 1), (2, 5, 3), (1, BLOCK_L, BLOCK_D), (2, BLOCK_L + 1, BLOCK_D + 1), (1, 131, 7)]
LARGE = [(4, 49, 1024), (8, 196, 512), (2, 784, 256), (2, 3136, 128), (1, 67_200, 128)]
# the interpreter rounds bfloat16 towards zero, the GPU to nearest
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE == "cuda" else [])
SHAPES = SMALL + (LARGE if DEVICE == "cuda" else [])


def make_inputs(shape: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    B, L, D = shape
    rng = torch.Generator().manual_seed(B + L + D)
    u, delta = (torch.randn(B, L, D, generator=rng).to(dtype) for _ in range(2))
    A = -torch.rand(D, 1, generator=rng) * 4 - 0.05
    b = torch.randn(B, L, 1, generator=rng).to(dtype)
    bias = torch.randn(D, generator=rng) - 2
    return [tensor.to(DEVICE) for tensor in (u, delta, A, b, bias)]


def doubled(inputs: list[Tensor]) -> list[Tensor]:
    return [tensor.double().cpu() for tensor in inputs]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_states(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    inputs = make_inputs(shape, dtype)
    oracle = REFERENCE.selective_scan(*doubled(inputs), True)
    baseline = REFERENCE.selective_scan(*(x.cpu() for x in inputs), True)
    got = selective_scan_triton(*inputs, True)
    assert got.dtype == dtype
    # long float32 sequences go over twice on the GPU, see docs/numerics.md
    factor = 3 if dtype == torch.float32 else 2
    assert_no_worse_than(got.cpu(), baseline, oracle, factor=factor)


@pytest.mark.parametrize("shape", SHAPES[:7], ids=str)
def test_gradients(shape: tuple[int, int, int]) -> None:
    inputs = make_inputs(shape, torch.float32)
    states = selective_scan_triton(*inputs, True)
    grad = torch.randn(states.shape, generator=torch.manual_seed(1)).to(DEVICE)
    got = selective_scan_backward_triton(grad, states, *inputs, True)
    precise = doubled([grad, states, *inputs])
    expected = selective_scan_backward(*precise, True)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double().cpu(), b, rtol=2e-4, atol=2e-4)


def test_without_bias_and_softplus() -> None:
    u, delta, A, b, _ = make_inputs((1, 70, 5), torch.float32)
    delta = delta.abs()
    got = selective_scan_triton(u, delta, A, b).cpu()
    expected = REFERENCE.selective_scan(*(x.cpu() for x in (u, delta, A, b)))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    grads = selective_scan_backward_triton(
        got.to(DEVICE), got.to(DEVICE), u, delta, A, b, None, False
    )
    assert grads[4] is None


def test_huge_steps_do_not_overflow() -> None:
    u, delta, A, b, bias = make_inputs((1, 66, 4), torch.float32)
    got = selective_scan_triton(u, delta.sign() * 1e4, A, b, bias, True)
    assert got.isfinite().all()


def test_what_the_kernels_do_not_cover() -> None:
    u, _, A, _, _ = make_inputs((1, 3, 2), torch.float32)
    assert supports(u, A)
    assert not supports(u.double(), A)
    assert not supports(u, A.expand(2, 3))
