"""The inference kernels; on the CPU through the interpreter, small shapes only."""

from collections.abc import Iterator
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.depthwise.triton_fwd import conv_silu_triton, position_encoding_triton
from kernels.selective_scan.low_rank import low_rank_scan_ref
from kernels.selective_scan.triton_fwd import low_rank_scan_triton
from tests.kernels.error_ratios import max_ratio
from tests.kernels.inference_ops import EPS, NARROW, OPS, Draw, Shape, error_ratio, taps

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# one token, one row, one column, odd, prime, a rectangle's multiple, more than one tile
SMALL: list[Shape] = [(9, 1, 1, 16), (2, 1, 9, 16), (6, 11, 1, 16), (2, 5, 7, 24), (1, 8, 16, 16)]
# the four stages of 224, 512 and 800 x 1344; the base model's widths; 2048 x 2048
STAGES: list[Shape] = [
    *((2, 56 >> i, 56 >> i, 64 << i) for i in range(4)),
    *((2, 56 >> i, 56 >> i, 96 << i) for i in range(4)),
    *((1, 128 >> i, 128 >> i, 64 << i) for i in range(4)),
    (1, 200, 336, 64),
    (1, 100, 168, 128),
    (1, 50, 84, 256),
    (1, 25, 42, 512),
    (33, 13, 17, 64),
    (64, 28, 28, 128),
]
HUGE: list[Shape] = [(1, 512, 512, 64), (1, 64, 64, 512)]
# the interpreter rounds bfloat16 towards zero, the GPU to nearest
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE == "cuda" else [])
# shapes with a path of their own: channels in three chunks; one segment and several; maps narrower
# than a strip and one token wider
DEPTHWISE = [
    "position_encoding",
    "position_statistics",
    "position_statistics_offset",
    "conv_silu",
]
SPECIAL: list[tuple[str, Shape]] = [
    *((op, (2, 3, 8, 96)) for op in DEPTHWISE),
    *((op, (1, 4, 7, 192)) for op in DEPTHWISE),
    *((op, (3, 5, 6, 12)) for op in DEPTHWISE),
    ("low_rank_scan", (1, 24, 25, 16)),
    ("low_rank_scan", (2, 24, 24, 24)),
]
SHAPES = SMALL + (STAGES + HUGE if DEVICE == "cuda" else [])


def _marks(op: str, shape: Shape, dtype: torch.dtype) -> list[pytest.MarkDecorator]:
    """The interpreter takes minutes for all of them, and does it every night.

    float32 takes no path that half precision does not; nor do statistics without an offset. With
    one they are the slowest, and a column goes through the same convolution in another case.
    """
    is_single = dtype == torch.float32
    is_left_out = op == "position_statistics" or (is_single and shape not in SMALL[3:])
    if op == "position_statistics_offset":
        is_left_out |= is_single or shape == SMALL[2]
    return [pytest.mark.nightly] if DEVICE == "cpu" and is_left_out else []


def _once_on_the_cpu(dtype: torch.dtype) -> list[pytest.MarkDecorator]:
    """float32 beside a half precision that takes the same paths."""
    return [pytest.mark.nightly] if DEVICE == "cpu" and dtype == torch.float32 else []


CASES = [
    pytest.param(op, shape, dtype, marks=_marks(op, shape, dtype))
    for op, shape in [*product(OPS, SHAPES), *SPECIAL]
    for dtype in DTYPES
]


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """New tensors hold NaN, so that an output which a kernel forgets is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("op", "shape", "dtype"), CASES, ids=str)
@pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning")
def test_no_worse_than_the_reference(op: str, shape: Shape, dtype: torch.dtype) -> None:
    if op in NARROW and shape[3] > 192:
        pytest.skip("a wide stage does not use this kernel")
    error, ratio = error_ratio(op, shape, dtype, DEVICE)
    assert ratio <= max_ratio(dtype, DEVICE), (
        f"max error {error:.3e} is {ratio:.2f} times that of the reference"
    )


class OneOfBatch(Draw):
    """Draws a batch of maps, hands out one of them; weights are those of the batch."""

    chosen = 0

    def exact(self, *shape: int, scale: float = 1.0) -> Tensor:
        drawn = super().exact(*shape, scale=scale)
        is_map = len(shape) == 4 and shape[0] == self.B
        return drawn[self.chosen : self.chosen + 1] if is_map else drawn


class Transposed(Draw):
    """Draws maps whose columns lie further apart in memory than their rows."""

    def exact(self, *shape: int, scale: float = 1.0) -> Tensor:
        drawn = super().exact(*shape, scale=scale)
        is_map = len(shape) == 4 and shape[0] == self.B
        return drawn.transpose(1, 2).contiguous().transpose(1, 2) if is_map else drawn


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("chosen", [0, 1])
def test_an_image_alone_equals_the_image_in_a_batch(op: str, chosen: int) -> None:
    shape: Shape = (2, 6, 5, 16)
    draw = OneOfBatch(shape, torch.float32, DEVICE)
    draw.chosen = chosen
    alone = OPS[op](draw).kernel()
    together = OPS[op](Draw(shape, torch.float32, DEVICE)).kernel()
    for one, batch in zip(alone, together, strict=True):
        axis = 0 if batch.shape[0] == one.shape[0] * 2 else 1  # statistics lead with their kind
        of_batch = batch.narrow(axis, chosen, 1)
        assert one.shape == of_batch.shape
        torch.testing.assert_close(one, of_batch, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("op", OPS)
def test_layout_of_the_inputs_does_not_change_the_answer(op: str) -> None:
    shape: Shape = (2, 6, 5, 16)
    transposed = OPS[op](Transposed(shape, torch.float32, DEVICE)).kernel()
    plain = OPS[op](Draw(shape, torch.float32, DEVICE)).kernel()
    for got, wanted in zip(transposed, plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


# softplus from underflow to its straight part, decay per token from 1 to exactly 0
@pytest.mark.parametrize("bias", [-100.0, -20.0, 0.0, 20.0, 100.0])
@pytest.mark.parametrize("decay", [-1e-6, -1.0, -200.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scan_with_extreme_steps(bias: float, decay: float, dtype: torch.dtype) -> None:
    draw = Draw((1, 9, 8, 16), dtype, DEVICE)
    u, projected = draw.map(32), draw.map(3)
    weight = draw.half(32, 1)
    step, A = torch.full((32,), bias, device=DEVICE), torch.full((32,), decay, device=DEVICE)
    got = low_rank_scan_triton(u, projected, weight.t().contiguous(), step, A).double()
    wanted = low_rank_scan_ref(
        u.double(), projected.double(), weight.double(), step.double(), A.double()
    )
    assert got.isfinite().all()
    tolerance = 4 * torch.finfo(dtype).eps if dtype != torch.float32 else 1e-5
    # the smallest steps leave subnormal states: float16 rounds them, float32 may flush them
    subnormal = 2**-24 if dtype == torch.float16 else 2**-126
    floor = max(tolerance * wanted.abs().max().item(), subnormal)
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=floor)


@pytest.mark.parametrize("width", [5, 7, 9])
@pytest.mark.parametrize(
    "dtype", [pytest.param(own, marks=_once_on_the_cpu(own)) for own in DTYPES], ids=str
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_lies_outside_a_map_cannot_reach_it(width: int, dtype: torch.dtype) -> None:
    """Neither the maps before and after it in memory nor the other half of its channels."""
    draw = Draw((3, 4, width, 32), dtype, DEVICE)
    weight, bias = taps(draw.exact(16, 1, 3, 3)), draw.exact(16)
    x = draw.map()
    clean_silu = conv_silu_triton(x[..., :16], weight, bias)[1]
    clean = position_encoding_triton(x[..., :16], weight, bias, EPS)
    x[0], x[2], x[1, ..., 16:] = float("nan"), float("inf"), float("nan")
    assert torch.equal(conv_silu_triton(x[..., :16], weight, bias)[1], clean_silu)
    y, statistics = position_encoding_triton(x[..., :16], weight, bias, EPS)
    assert statistics is not None
    assert clean[1] is not None
    assert torch.equal(y[1], clean[0][1])
    assert torch.equal(statistics[:, 1], clean[1][:, 1])


@pytest.mark.parametrize("value", [-6e4, -200.0, -88.0, 0.0, 88.0, 6e4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silu_of_extreme_values(value: float, dtype: torch.dtype) -> None:
    x = torch.zeros(1, 2, 9, 16, dtype=dtype, device=DEVICE)
    weight, bias = torch.zeros(9, 16, device=DEVICE), torch.full((16,), value, device=DEVICE)
    wanted = F.silu(bias.double()).to(dtype).expand_as(x)
    torch.testing.assert_close(conv_silu_triton(x, weight, bias), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device and 13 GB of its memory")
def test_offsets_beyond_31_bits() -> None:
    """The last map of a batch of more than 2^31 values is as right as the first one."""
    x = torch.randn(1, 224, 224, 64, device=DEVICE).half().expand(700, -1, -1, -1).contiguous()
    assert x.numel() > 2**31
    weight, bias = torch.randn(9, 64, device=DEVICE), torch.randn(64, device=DEVICE)
    y = conv_silu_triton(x, weight, bias)
    assert torch.equal(y[0], y[-1])
    assert y[-1].isfinite().all()
