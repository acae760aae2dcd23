"""The inference kernels; on the CPU through the interpreter, small shapes only."""

from collections.abc import Iterator

import pytest
import torch

from kernels.depthwise.triton_fwd import conv_silu_triton
from tests.kernels.inference_ops import NARROW, OPS, Draw, Shape, error_ratio, max_ratio

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
SHAPES = SMALL + (STAGES + HUGE if DEVICE == "cuda" else [])


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """New tensors hold NaN, so that an output which a kernel forgets is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning")
def test_no_worse_than_the_reference(op: str, shape: Shape, dtype: torch.dtype) -> None:
    if op in NARROW and shape[3] > 192:
        pytest.skip("a wide stage does not use this kernel")
    error, ratio = error_ratio(op, shape, dtype, DEVICE)
    assert ratio <= max_ratio(dtype, DEVICE), (
        f"max error {error:.3e} is {ratio:.2f} times that of the reference"
    )


@pytest.mark.parametrize("op", OPS)
def test_an_image_alone_equals_the_image_in_a_batch(op: str) -> None:
    # one map after the other through the same inputs: only what crosses maps could differ
    draw = Draw((3, 6, 5, 16), torch.float32, DEVICE)
    together = OPS[op](draw).reference(False)
    got = OPS[op](Draw((3, 6, 5, 16), torch.float32, DEVICE)).kernel()
    for a, b in zip(got, together, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


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
