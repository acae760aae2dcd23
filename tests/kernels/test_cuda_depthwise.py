"""The depthwise convolutions in CUDA C++, as `test_cuda_kernels` does the other kernels."""

import pytest
import torch

from benchmarks.kernel_resources import code_usage
from kernels import nvrtc
from kernels.depthwise import cuda_fwd as depthwise_cuda
from kernels.depthwise.reference import conv_silu_ref, position_encoding_ref
from tests.kernels.inference_ops import statistics
from tests.kernels.test_cuda_kernels import (
    EPS,
    H100,
    SHAPES,
    needs_compiler,
    needs_gpu,
    relative_error,
)

DEPTHWISE_WAYS = ["silu", "sum", "statistics", "offset"]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("way", DEPTHWISE_WAYS)
@pytest.mark.parametrize(("side", "C"), [(56, 128), (13, 768)])
def test_depthwise_compiles_without_spilling(side: int, C: int, way: str) -> None:
    has_statistics = way in ("statistics", "offset")
    how = depthwise_cuda.plan((128, side, side, C), H100, with_statistics=has_statistics)
    assert how is not None
    kind = {"with_silu": way == "silu", "with_statistics": has_statistics}
    defines = depthwise_cuda.defines_of(
        how, side, C, C, torch.float16, with_offset=way == "offset", **kind
    )
    found = code_usage(nvrtc.compile_source(depthwise_cuda.SOURCE, defines, "sm_90a"))
    assert found["REG"] <= 128
    assert found["STACK"] == 0
    assert found["LOCAL"] == 0


@pytest.mark.parametrize("with_statistics", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (128, 28, 28, 192)], ids=str)
def test_a_plan_of_a_depthwise_convolution_covers_the_map(
    shape: tuple[int, int, int, int], with_statistics: bool
) -> None:
    B, H, W, C = shape
    how = depthwise_cuda.plan(shape, H100, with_statistics=with_statistics)
    if with_statistics and C > 1024:
        assert how is None
        return
    assert how is not None
    assert how.group * 2 * how.channel_blocks == C
    assert how.channel_blocks == 1 or not with_statistics
    assert how.group % 32 == 0
    # the barriers of the strips are numbered, up to 15
    assert how.group * how.strips <= 512
    assert how.strips <= 15
    assert (how.segments - 1) * how.rows < H <= how.segments * how.rows
    assert how.units == B * -(-W // 7) * how.segments


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", DEPTHWISE_WAYS)
@pytest.mark.parametrize(
    "shape",
    [(16, 56, 56, 128), (16, 28, 28, 192), (8, 14, 14, 768), (8, 7, 7, 512), (3, 5, 9, 64)],
    ids=str,
)
def test_depthwise_on_the_gpu(
    shape: tuple[int, int, int, int], way: str, dtype: torch.dtype
) -> None:
    B, H, W, C = shape
    torch.manual_seed(0)
    draw = lambda *size: torch.randn(size, device="cuda")  # noqa: E731
    x = draw(B, H, W, 2 * C).to(dtype)[..., :C]
    weight, bias, offset = 0.3 * draw(C, 1, 3, 3), draw(C), draw(C)
    eps = EPS if way in ("statistics", "offset") else None
    how = depthwise_cuda.plan(shape, H100, with_statistics=eps is not None)
    assert how is not None
    got, found = depthwise_cuda.depthwise_cuda(
        x,
        weight.reshape(C, 9).t().contiguous(),
        bias,
        how,
        with_silu=way == "silu",
        norm_eps=eps,
        offset=offset if way == "offset" else None,
    )
    reference = conv_silu_ref if way == "silu" else position_encoding_ref
    wanted = reference(x.double(), weight.double(), bias.double())
    assert relative_error(got, wanted) < torch.finfo(dtype).eps / 2
    if found is not None:
        of_got = statistics(got.flatten(0, 2), offset if way == "offset" else None)
        torch.testing.assert_close(found.flatten(1), of_got, rtol=1e-4, atol=1e-5)
