"""The CUDA C++ kernels: that they compile, how they share out work, and on a GPU what they give."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.kernel_resources import code_usage
from kernels import nvrtc
from kernels.device import Device
from kernels.expand_downsample import cuda_fwd as downsample_cuda
from kernels.expand_downsample.reference import expand_downsample_ref
from kernels.linear import cuda_fwd as linear_cuda
from kernels.linear.reference import Activation, linear_ref
from kernels.selective_scan import cuda_fwd as scan_cuda
from kernels.state_fusion import cuda_fwd as fusion_cuda
from kernels.state_fusion.gated import gated_fusion_ref, merge_taps
from tests.kernels.cuda_ops import low_rank_scan_cuda
from tests.kernels.inference_ops import Draw, shift_of, statistics

H100 = Device((9, 0), 132, 232448)
A10 = Device((8, 6), 72, 101376)
EPS = 1e-5

needs_compiler = pytest.mark.skipif(
    not nvrtc.is_available(), reason="this build of PyTorch brings no CUDA compiler"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("side", "E"), [(56, 128), (28, 384), (14, 768), (7, 1024), (7, 1536)])
def test_fusion_compiles_without_spilling(side: int, E: int) -> None:
    plan = fusion_cuda.plan((128, side, side, E), H100)
    assert plan is not None
    defines = fusion_cuda.defines_of(plan, side, E, E // 32 + 2, 2 * E, torch.float16)
    found = code_usage(nvrtc.compile_source(fusion_cuda.SOURCE, defines, "sm_90a"))
    assert found["REG"] * plan.threads <= 65536
    assert found["STACK"] <= 32
    assert found["LOCAL"] == 0


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_100", "sm_120"])
def test_fusion_compiles_for_other_gpus(architecture: str) -> None:
    plan = fusion_cuda.plan((8, 28, 28, 128), A10)
    assert plan is not None
    defines = fusion_cuda.defines_of(plan, 28, 128, 6, 256, torch.float16)
    assert nvrtc.compile_source(fusion_cuda.SOURCE, defines, architecture)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("K", "N"), [(96, 384), (512, 2048), (768, 3072)])
def test_product_compiles_without_spilling(K: int, N: int) -> None:
    stages = linear_cuda.stages_for(K, H100.shared_bytes)
    names = ("K", "N", "STAGES", "CONSUMERS", "NORM", "SHIFT", "ACTIVATION", "BFLOAT")
    values = (K, N, stages, linear_cuda.CONSUMERS, 1, 1, 2, 0)
    defines = list(zip(names, values, strict=True))
    found = code_usage(nvrtc.compile_source(linear_cuda.SOURCE, defines, "sm_90a"))
    # what the groups of warps hand to each other must be there
    assert found["REG"] == 65536 // (128 * (1 + linear_cuda.CONSUMERS)) // 8 * 8
    assert found["STACK"] == 0
    assert found["LOCAL"] == 0


# (H, W, C) of the maps: the stages of the models, and one with everything that is rare
DOWNSAMPLED = [(56, 56, 64), (28, 28, 192), (14, 14, 256), (14, 14, 384), (25, 131, 256)]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("shape", DOWNSAMPLED, ids=str)
def test_down_sampling_compiles_without_spilling(shape: tuple[int, int, int]) -> None:
    _, W, C = shape
    how = downsample_cuda.plan((128, *shape), 8 * C, H100)
    assert how is not None
    defines = downsample_cuda.defines_of(how, W, C, 8 * C, torch.float16)
    found = code_usage(nvrtc.compile_source(downsample_cuda.SOURCE, defines, "sm_90a"))
    # what the groups of warps hand to each other must be there
    assert found["REG"] == 168
    assert found["STACK"] == 0
    assert found["LOCAL"] == 0


# (side, D, R) of the stages of tiny and base
SCANNED = [(56 >> i, 2 * dim << i, -(-dim // 16) << i) for dim in (64, 96) for i in range(4)]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("side", "D", "R"), [*SCANNED, (7, 1024, 64)])
@pytest.mark.parametrize("batch", [128, 4])
def test_scan_compiles_without_spilling(
    batch: int, side: int, D: int, R: int, dtype: torch.dtype
) -> None:
    how = scan_cuda.plan((batch, side, side, D), R, H100)
    assert how is not None
    for which in scan_cuda.passes(how):
        defines = scan_cuda.defines_of(how, D, R, dtype, which)
        found = code_usage(nvrtc.compile_source(scan_cuda.SOURCE, defines, "sm_90a"))
        assert found["REG"] * 32 * scan_cuda.resident(R) <= 65536
        assert found["STACK"] == 0
        assert found["LOCAL"] == 0


@needs_compiler
def test_a_source_that_does_not_compile_says_why(tmp_path: Path) -> None:
    source = tmp_path / "broken.cu"
    source.write_text("__global__ void f() { undeclared = 1; }")
    with pytest.raises(nvrtc.CudaError, match=r"broken\.cu: .*undeclared"):
        nvrtc.compile_source(source, [], "sm_90")


@needs_compiler
def test_a_call_that_fails_is_said_in_torchs_words() -> None:
    status = nvrtc.driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(nvrtc.CudaError, match="CUDA error: out of memory"):
        nvrtc._check((status,))


SHAPES = [
    (128, 56, 56, 128),
    (1, 56, 56, 128),
    (128, 28, 28, 384),
    (128, 14, 14, 768),
    (128, 7, 7, 1536),
    (4, 200, 336, 128),
    (3, 5, 9, 64),
    (1, 1, 1, 64),
    (7, 3, 100, 256),
]


@pytest.mark.parametrize("device", [H100, A10], ids=["H100", "A10"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_plan_covers_the_map_within_the_limits(
    shape: tuple[int, int, int, int], device: Device
) -> None:
    plan = fusion_cuda.plan(shape, device)
    if plan is None:
        # eleven rows of seven tokens and what the taps reach beside them do not fit
        columns = min(7 + 2 * fusion_cuda.REACH, -(-shape[2] // 7) * 7)
        assert min(shape[1], 12) * columns * shape[3] * 2 > 0.8 * device.shared_bytes
        return
    _, H, W, E = shape
    assert plan.shared_bytes <= device.shared_bytes
    assert plan.threads == plan.strips * E // 2 // plan.passes <= 512
    assert plan.tiles * plan.strips * fusion_cuda.WIDTH >= W
    assert (plan.tiles - 1) * plan.strips * fusion_cuda.WIDTH < W
    assert 1 <= plan.rows <= H
    # the widest tile's own columns and what its taps reach of the map
    padded = -(-W // 7) * 7
    assert plan.columns <= min(plan.strips * 7 + 2 * fusion_cuda.REACH, padded)


def test_small_batches_are_spread_over_the_chip() -> None:
    plan = fusion_cuda.plan((1, 56, 56, 128), H100)
    assert plan is not None
    assert -(-56 // plan.rows) >= 28


@pytest.mark.parametrize("channels", [24, 96, 200])
def test_widths_that_warps_cannot_share_have_no_plan(channels: int) -> None:
    assert fusion_cuda.plan((1, 8, 8, channels), H100) is None


@pytest.mark.parametrize(("K", "stages"), [(64, 8), (384, 8), (512, 8), (768, 4), (832, 2)])
def test_stages_fit_the_shared_memory(K: int, stages: int) -> None:
    assert linear_cuda.stages_for(K, H100.shared_bytes) == stages


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [*SHAPES, (2, 13, 1, 64), (2, 30, 41, 256), (1, 33, 64, 512)], ids=str
)
def test_fusion_on_the_gpu(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    B, H, W, E = shape
    B = min(B, 4)
    torch.manual_seed(0)
    draw = lambda *size: torch.randn(size, device="cuda")  # noqa: E731
    state, u, p = (draw(B, H, W, n).to(dtype) for n in (E, E, E // 32 + 2))
    gate = draw(B, H, W, 2 * E).to(dtype)[..., E:]
    weight, D, gain, bias = 0.3 * draw(3, E, 3, 3), draw(E), draw(E), draw(E)
    plan = fusion_cuda.plan_for(state)
    if plan is None:
        pytest.skip("this GPU has too little shared memory for the shape")
    got = fusion_cuda.gated_fusion_cuda(
        state, u, p, gate, merge_taps(weight), D, gain, bias, EPS, plan
    )
    wide = [x.double() for x in (state, u, p[..., -1:], gate, weight, D, gain, bias)]
    wanted = gated_fusion_ref(*wide, EPS)
    assert relative_error(got, wanted) < torch.finfo(dtype).eps / 2


@pytest.mark.parametrize(
    "shape", [*SHAPES, (128, 28, 28, 192), (128, 14, 14, 384), (1, 1000, 1, 64)], ids=str
)
def test_a_plan_of_down_sampling_covers_the_map(shape: tuple[int, int, int, int]) -> None:
    B, H, W, C = shape
    how = downsample_cuda.plan(shape, 8 * C, H100)
    if C > 384:
        assert how is None
        return
    assert how is not None
    assert how.shared_bytes <= H100.shared_bytes
    assert how.stages >= 2
    OH, OW = -(-H // 2), -(-W // 2)
    own = how.positions // 2 - how.halo
    assert (how.tiles - 1) * own < OW <= how.tiles * own
    assert (how.strips - 1) * how.rows < OH <= how.strips * how.rows
    columns = 8 * C // downsample_cuda.BLOCK_CHANNELS
    assert how.blocks % columns == 0
    # every team of blocks has a task, and they fit the chip side by side
    assert how.blocks // columns <= -(-B * how.tiles // how.units) * how.strips
    assert how.blocks <= max(H100.multiprocessors, columns)


@pytest.mark.parametrize(
    ("shape", "device"), [((1, 8, 8, 24), H100), ((1, 8, 8, 512), H100), ((1, 8, 8, 64), A10)]
)
def test_maps_that_down_sampling_leaves_to_others(
    shape: tuple[int, int, int, int], device: Device
) -> None:
    assert downsample_cuda.plan(shape, 8 * shape[3], device) is None


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        *((128, *shape) for shape in DOWNSAMPLED),
        (1, 14, 14, 256),
        (4, 200, 336, 64),
        (1, 100, 168, 128),
        (2, 50, 84, 256),
        (3, 1, 1, 64),
        (2, 7, 9, 32),
        (1, 33, 64, 48),
    ],
    ids=str,
)
def test_down_sampling_on_the_gpu(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    B, H, W, C = shape
    torch.manual_seed(0)
    draw = lambda *size: torch.randn(size, device="cuda")  # noqa: E731
    x, weight = draw(B, H, W, C).to(dtype), (draw(8 * C, C) * C**-0.5).to(dtype)
    bias, taps, shift = draw(8 * C), 0.3 * draw(8 * C, 1, 3, 3), draw(8 * C)
    how = downsample_cuda.plan_for(x, 8 * C)
    if how is None:
        pytest.skip("this kernel is for compute capability 9.0")
    rows = taps.reshape(8 * C, 9).t().contiguous()
    got = downsample_cuda.expand_downsample_cuda(x, weight, bias, rows, shift, how)
    for i in range(0, B, 8):  # the wide map of all in double precision would be large
        part = [own.double() for own in (x[i : i + 8], weight, bias, taps, shift)]
        wanted = expand_downsample_ref(*part)
        assert relative_error(got[i : i + 8], wanted) < torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("shape", [(128, 49, 512), (128, 784, 384), (1, 1, 32), (3, 165, 192)])
@pytest.mark.parametrize("R", [2, 6, 48, 64])
def test_blocks_of_the_scan_fit_side_by_side(shape: tuple[int, int, int], R: int) -> None:
    B, L, D = shape
    how = scan_cuda.plan((B, 1, L, D), R, H100)
    assert how is not None
    assert (how.columns, how.images) == (D // 32, B)
    assert how.warps in (2, 4)
    assert how.warps == 2 or L > 64
    assert L * (R + 2) * 2 % how.piece == 0
    # and the kilobyte that each block costs
    blocks = scan_cuda.resident(R) // how.warps
    assert blocks * (how.shared_bytes + 1024) <= 228 * 1024


@pytest.mark.parametrize("shape", [(4, 67200, 128), (1, 3136, 128), (16, 256, 1024), (8, 784, 256)])
def test_segments_of_the_scan_cover_maps_and_fit_side_by_side(shape: tuple[int, int, int]) -> None:
    B, L, D = shape
    how = scan_cuda.plan((B, 1, L, D), 4, H100)
    assert how is not None
    assert (how.segments - 1) * how.length < L <= how.segments * how.length
    blocks = how.columns * how.segments * how.images
    assert how.segments == 1 or (how.length % scan_cuda.TILE == 0 and blocks <= 4 * 132)
    assert scan_cuda.passes(how) == ((0,) if how.segments == 1 else (1, 2))


def test_warps_of_the_scan_leave_no_blocks_for_a_second_turn() -> None:
    # 4 x 128 blocks: all at once; 6 x 128: only if they are small; 12 x 128: three full turns
    planned = [scan_cuda.plan((128, side, side, D), R, H100) for side, D, R in SCANNED]
    assert [how.warps for how in planned if how is not None] == [4, 4, 4, 2, 2, 4, 4, 2]


@pytest.mark.parametrize(
    ("D", "R", "device"), [(48, 4, H100), (64, 5, H100), (64, 66, H100), (64, 4, A10)]
)
def test_maps_that_the_scan_leaves_to_others(D: int, R: int, device: Device) -> None:
    assert scan_cuda.plan((128, 8, 8, D), R, device) is None


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        *((16, side, side, D // 2) for side, D, _ in SCANNED),
        (128, 28, 28, 64),
        (128, 7, 7, 512),
        (3, 1, 1, 64),
        (2, 1, 31, 96),
        (3, 5, 13, 192),
        (2, 11, 15, 384),
        (1, 64, 65, 256),
    ],
    ids=str,
)
def test_scan_on_the_gpu(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this kernel is for compute capability 9.0")
    case = low_rank_scan_cuda(Draw(shape, dtype, "cuda"))
    (got,), (wanted,) = case.kernel(), case.reference(True)
    assert relative_error(got, wanted) < torch.finfo(dtype).eps / 2
    # the order in which warps take their turns must not matter
    assert all(torch.equal(case.kernel()[0], got) for _ in range(5))


@needs_gpu
@pytest.mark.gpu
def test_maps_of_half_precision_go_to_the_cuda_scan() -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this kernel is for compute capability 9.0")
    u, p = (torch.randn(128, 7, 7, n, device="cuda").half() for n in (128, 6))
    weight = torch.randn(4, 128, device="cuda").half()
    assert scan_cuda.plan_for(u, p, weight) is not None
    assert scan_cuda.plan_for(u[:, :, ::2], p, weight) is None
    assert scan_cuda.plan_for(u.float(), p.float(), weight.float()) is None


@needs_gpu
@pytest.mark.gpu
def test_kernels_work_in_a_thread_that_has_used_no_gpu() -> None:
    case = low_rank_scan_cuda(Draw((2, 3, 5, 32), torch.float16, "cuda"))
    (wanted,) = case.kernel()
    torch.cuda.synchronize()
    nvrtc.load_kernel.cache_clear()
    with ThreadPoolExecutor(1) as fresh:
        (got,) = fresh.submit(case.kernel).result()
    assert torch.equal(got, wanted)


ACTIVATIONS: list[Activation] = ["none", "relu", "gelu", "silu_second_half"]


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("M", "K", "N"),
    [(1, 64, 128), (129, 96, 384), (1000, 256, 1024), (40001, 384, 768), (6272, 768, 3072)],
    ids=str,
)
def test_product_on_the_gpu(
    M: int, K: int, N: int, activation: Activation, dtype: torch.dtype
) -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this kernel is for compute capability 9.0")
    torch.manual_seed(0)
    x, weight = (torch.randn(n, K, device="cuda").to(dtype) for n in (M, N))
    weight = weight * K**-0.5
    bias = torch.randn(N, device="cuda")
    offset = torch.randn(K, device="cuda") if activation == "gelu" else None
    out = torch.full((M, N), torch.nan, device="cuda", dtype=dtype)
    linear_cuda.wide_product_cuda(
        x,
        weight,
        bias,
        out,
        colsum=weight.float().sum(1),
        statistics=statistics(x, offset),
        shift=None if offset is None else shift_of(weight, offset),
        activation=activation,
    )
    exact = [own.double() for own in (x, weight, bias)]
    wanted = linear_ref(*exact, norm_eps=EPS, offset=offset, activation=activation)
    assert relative_error(out, wanted) < torch.finfo(dtype).eps / 2
