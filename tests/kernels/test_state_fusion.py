import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import FUSED, REFERENCE
from tests.numerics import assert_no_worse_than

# one pixel, one row, one column, smaller than the reach of 5, odd, prime, real stage sizes
SHAPES = [
    (1, 1, 1, 1),
    (2, 1, 9, 3),
    (1, 33, 1, 2),
    (2, 3, 4, 5),
    (1, 7, 7, 16),
    (2, 13, 17, 4),
    (1, 14, 14, 8),
    (1, 28, 56, 4),
]


def make_inputs(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    rng = torch.Generator().manual_seed(hash(shape) % 2**31)
    state = torch.randn(*shape, generator=rng)
    weight = torch.randn(3, shape[3], 3, 3, generator=rng)
    scale = torch.randn(3, generator=rng)
    return [tensor.to(dtype) for tensor in (state, weight, scale)]


def brute_force(state: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The definition, pixel by pixel."""
    H, W = state.shape[1:3]
    out = torch.zeros_like(state)
    for y in range(H):
        for x in range(W):
            for k, d in enumerate((1, 3, 5)):
                for i in range(3):
                    for j in range(3):
                        r = min(max(y + (i - 1) * d, 0), H - 1)
                        c = min(max(x + (j - 1) * d, 0), W - 1)
                        out[:, y, x] += scale[k] * weight[k, :, i, j] * state[:, r, c]
    return out


@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_the_reference_is_the_definition(shape: tuple[int, int, int, int]) -> None:
    inputs = make_inputs(shape, torch.float64)
    torch.testing.assert_close(
        REFERENCE.state_fusion(*inputs), brute_force(*inputs), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_served_fusion_is_as_exact_as_the_reference(shape: tuple[int, int, int, int]) -> None:
    inputs = make_inputs(shape, torch.float32)
    oracle = REFERENCE.state_fusion(*(x.double() for x in inputs))
    got = FUSED.state_fusion(*inputs)
    assert got.shape == shape
    assert got.is_contiguous()
    assert_no_worse_than(got, REFERENCE.state_fusion(*inputs), oracle, factor=2)


def test_the_border_is_replicated_not_zero() -> None:
    state, weight, scale = torch.ones(1, 6, 6, 2), torch.rand(3, 2, 3, 3), torch.ones(3)
    fused = FUSED.state_fusion(state, weight, scale)
    # a constant map stays constant: every tap reads a one, also outside the map
    torch.testing.assert_close(fused, weight.sum((0, 2, 3)).expand_as(fused))
    zero_padded = sum(
        F.conv2d(state.permute(0, 3, 1, 2), weight[k][:, None], padding=d, dilation=d, groups=2)
        for k, d in enumerate((1, 3, 5))
    )
    assert not torch.allclose(fused.permute(0, 3, 1, 2), zero_padded)


def test_non_contiguous_states_give_the_same_result() -> None:
    state, weight, scale = make_inputs((2, 9, 8, 6), torch.float32)
    expected = FUSED.state_fusion(state, weight, scale)
    planes = state.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    torch.testing.assert_close(FUSED.state_fusion(planes, weight, scale), expected)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 4, 6, 3), (1, 1, 12, 2)], ids=str)
def test_gradients_are_those_of_the_reference(shape: tuple[int, int, int, int]) -> None:
    inputs = [x.requires_grad_() for x in make_inputs(shape, torch.float64)]
    reference = REFERENCE.state_fusion(*inputs)
    served = FUSED.state_fusion(*inputs)
    grad = torch.randn(served.shape, dtype=torch.float64, generator=torch.manual_seed(1))
    expected = torch.autograd.grad(reference, inputs, grad)
    got = torch.autograd.grad(served, inputs, grad)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


# opcheck itself reads .grad of a non-leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_the_operator_is_registered_correctly() -> None:
    inputs = [x.requires_grad_() for x in make_inputs((2, 5, 6, 4), torch.float32)]
    torch.library.opcheck(torch.ops.spatial_mamba.state_fusion.default, tuple(inputs))


@pytest.mark.parametrize(
    ("state", "weight", "scale", "message"),
    [
        ((3, 4, 5), (3, 5, 3, 3), (3,), "state must be"),
        ((1, 0, 4, 5), (3, 5, 3, 3), (3,), "none empty"),
        ((1, 4, 4, 5), (2, 5, 3, 3), (3,), "weight must be"),
        ((1, 4, 4, 5), (3, 5, 3, 3), (2,), "scale must be"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    state: tuple[int, ...], weight: tuple[int, ...], scale: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FUSED.state_fusion(torch.zeros(state), torch.zeros(weight), torch.zeros(scale))
