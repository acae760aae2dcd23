import pytest
import torch
from torch import Tensor

from kernels import FUSED, REFERENCE
from kernels.selective_scan.chunked import linear_scan
from tests.numerics import assert_no_worse_than

# length 1, primes, squares, one more and one less than a multiple of the chunk, real stage sizes
SHAPES = [
    (1, 1, 1, 1),
    (2, 2, 3, 1),
    (1, 7, 5, 1),
    (2, 49, 8, 1),
    (1, 97, 4, 3),
    (3, 196, 16, 1),
    (1, 199, 2, 16),
    (1, 784, 8, 1),
]


def make_inputs(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    B, L, D, N = shape
    rng = torch.Generator().manual_seed(hash(shape) % 2**31)
    u = torch.randn(B, L, D, generator=rng)
    delta = torch.randn(B, L, D, generator=rng)
    A = -torch.rand(D, N, generator=rng) * 4 - 0.05
    b = torch.randn(B, L, N, generator=rng)
    bias = torch.randn(D, generator=rng) - 2
    return [tensor.to(dtype) for tensor in (u, delta, A, b, bias)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("softplus", [True, False])
def test_the_served_scan_is_as_exact_as_the_reference(
    shape: tuple[int, int, int, int], softplus: bool
) -> None:
    inputs = make_inputs(shape, torch.float32)
    if not softplus:
        inputs[1] = inputs[1].abs() * 0.1
        inputs[4] = inputs[4].abs() * 0.1
    oracle = REFERENCE.selective_scan(*(x.double() for x in inputs), softplus)
    baseline = REFERENCE.selective_scan(*inputs, softplus)
    got = FUSED.selective_scan(*inputs, softplus)
    assert got.shape == (*shape[:3], shape[3])
    assert_no_worse_than(got, baseline, oracle, factor=2)


def test_one_scan_by_hand() -> None:
    u = torch.tensor([[[1.0], [2.0], [3.0]]], dtype=torch.float64)
    delta = torch.tensor([[[0.5], [1.0], [2.0]]], dtype=torch.float64)
    A = torch.tensor([[-1.0]], dtype=torch.float64)
    b = torch.tensor([[[1.0], [0.5], [-1.0]]], dtype=torch.float64)
    h1 = 0.5
    h2 = h1 * torch.e**-1 + 1.0 * 0.5 * 2
    h3 = h2 * torch.e**-2 + 2.0 * -1 * 3
    expected = torch.tensor([h1, h2, h3], dtype=torch.float64)
    for ops in (REFERENCE, FUSED):
        states = ops.selective_scan(u, delta, A, b).flatten()
        torch.testing.assert_close(states, expected, rtol=1e-14, atol=0)


def test_non_contiguous_inputs_give_the_same_states() -> None:
    u, delta, A, b, bias = make_inputs((2, 60, 6, 1), torch.float32)
    expected = FUSED.selective_scan(u, delta, A, b, bias, True)
    wide = torch.cat((u, delta), dim=-1)
    got = FUSED.selective_scan(wide[..., :6], wide[..., 6:], A, b, bias, True)
    assert torch.equal(got, expected)
    strided = u.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(FUSED.selective_scan(strided, delta, A, b, bias, True), expected)


@pytest.mark.parametrize("magnitude", [1e-6, 30.0, 1e4])
def test_extreme_step_sizes_stay_finite_and_exact(magnitude: float) -> None:
    u, delta, A, b, bias = make_inputs((1, 150, 4, 1), torch.float32)
    delta = delta.sign() * magnitude
    A = A * 20
    oracle = REFERENCE.selective_scan(*(x.double() for x in (u, delta, A, b, bias)), True)
    baseline = REFERENCE.selective_scan(u, delta, A, b, bias, True)
    got = FUSED.selective_scan(u, delta, A, b, bias, True)
    assert_no_worse_than(got, baseline, oracle, factor=2)


def test_inputs_are_left_alone() -> None:
    inputs = make_inputs((2, 50, 4, 1), torch.float32)
    copies = [x.clone() for x in inputs]
    FUSED.selective_scan(*inputs, True)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


def test_every_row_of_a_batch_equals_the_row_alone() -> None:
    u, delta, A, b, bias = make_inputs((4, 121, 8, 1), torch.float32)
    together = FUSED.selective_scan(u, delta, A, b, bias, True)
    for i in range(4):
        alone = FUSED.selective_scan(u[i : i + 1], delta[i : i + 1], A, b[i : i + 1], bias, True)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (2, 23, 3, 1), (1, 40, 2, 3)], ids=str)
def test_gradients_are_those_of_the_reference(shape: tuple[int, int, int, int]) -> None:
    inputs = [x.requires_grad_() for x in make_inputs(shape, torch.float64)]
    reference = REFERENCE.selective_scan(*inputs, True)
    served = FUSED.selective_scan(*inputs, True)
    grad = torch.randn(served.shape, dtype=torch.float64, generator=torch.manual_seed(1))
    expected = torch.autograd.grad(reference, inputs, grad)
    got = torch.autograd.grad(served, inputs, grad)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


# opcheck itself reads .grad of a non-leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_the_operator_is_registered_correctly() -> None:
    inputs = make_inputs((2, 12, 4, 1), torch.float32)
    inputs = [x.requires_grad_() for x in inputs]
    torch.library.opcheck(torch.ops.spatial_mamba.selective_scan.default, (*inputs, True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": (4, 5)}, "u must be"),
        ({"u": (1, 0, 4), "delta": (1, 0, 4), "b": (1, 0, 1)}, "L >= 1"),
        ({"delta": (1, 5, 3)}, "delta must be"),
        ({"A": (3, 1)}, "A must be"),
        ({"b": (1, 5, 2)}, "B must be"),
        ({"bias": (5,)}, "delta_bias must be"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change: dict[str, tuple[int, ...]], message: str) -> None:
    shapes = {"u": (1, 5, 4), "delta": (1, 5, 4), "A": (4, 1), "b": (1, 5, 1), "bias": (4,)}
    tensors = [torch.zeros(change.get(name, shape)) for name, shape in shapes.items()]
    with pytest.raises(ValueError, match=message):
        FUSED.selective_scan(*tensors, True)


def test_linear_scan_survives_decays_that_underflow() -> None:
    decay = torch.full((1, 300, 2), 1e-30)
    drive = torch.ones(1, 300, 2)
    assert torch.equal(linear_scan(decay, drive), drive)
