"""Matrix product with norm, bias, activation and residual in the same pass.

The LayerNorm before the product is applied after it:
norm(x) W^T = (x W^T - mean(x) colsum(W)) / std(x), with the rows' statistics from whoever wrote x.
x enters exact, so nothing is lost to a rounding of the normalised values. Where x carries an offset
that is not the norm's business, its product with W is taken away as well.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.device import describe_device
from kernels.layout import is_precise, next_power_of_2
from kernels.linear.reference import Activation
from kernels.shared_memory import prefer_shared
from kernels.triton_math import gelu, multiply_add, silu

_SHARED_BYTES = 216 * 1024
_NONE = tl.constexpr(0)
_RELU = tl.constexpr(1)
_GELU = tl.constexpr(2)
_SILU_SECOND_HALF = tl.constexpr(3)
_ACTIVATIONS: dict[Activation, int] = {"none": 0, "relu": 1, "gelu": 2, "silu_second_half": 3}


@triton.jit
def activate(y, column, N, ACTIVATION: tl.constexpr, PRECISE: tl.constexpr):
    """(rows, columns) float32 -> same; `column` says which ones."""
    if ACTIVATION == _RELU:
        # not max(): NaN must stay visible
        y = tl.where(y < 0.0, 0.0, y)
    if ACTIVATION == _GELU:
        y = gelu(y, PRECISE)
    if ACTIVATION == _SILU_SECOND_HALF:
        y = tl.where((column >= N // 2)[None, :], silu(y, PRECISE), y)
    return y


@prefer_shared
@triton.jit(do_not_specialize=["M"])
def _linear_kernel(
    x_ptr,  # (M, K), rows `stride` apart
    weight_ptr,  # (N, K)
    bias_ptr,  # (N,) float32
    colsum_ptr,  # (N,) float32, sums of the weight's rows; read with NORM
    statistics_ptr,  # (2, M) float32, mean and 1 / std of the rows; read with NORM
    shift_ptr,  # (N,) float32, product of the weight and the rows' offset; read with SHIFT
    residual_ptr,  # (M, N); read with RESIDUAL
    out_ptr,  # (M, N)
    M,
    N,
    K,
    stride,
    NORM: tl.constexpr,
    SHIFT: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PRECISE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    # neighbouring programs share rows of x, which stay in the cache
    num_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    start_m, start_n = (pid // num_n) * BLOCK_M, (pid % num_n) * BLOCK_N
    local = tl.arange(0, BLOCK_M)
    valid = start_m + local < M
    column = start_n + tl.arange(0, BLOCK_N)
    exists = column < N
    first = start_m.to(tl.int64)
    x_ptr += first * stride
    # what comes after the sums is read before them, or few tiles would wait for it once more
    if BIAS:
        bias = tl.load(bias_ptr + column, mask=exists, other=0.0)
    if NORM:
        colsum = tl.load(colsum_ptr + column, mask=exists, other=0.0)
    if SHIFT:
        shift = tl.load(shift_ptr + column, mask=exists, other=0.0)
    await_predecessor(OVERLAP)
    offset = first * N + local[:, None] * N + column[None, :]
    mask = valid[:, None] & exists[None, :]
    if NORM:
        mean = tl.load(statistics_ptr + start_m + local, mask=valid, other=0.0)
        scale = tl.load(statistics_ptr + M + start_m + local, mask=valid, other=0.0)
    if RESIDUAL:
        residual = tl.load(residual_ptr + offset, mask=mask, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start_k in range(0, K, BLOCK_K):
        k = start_k + tl.arange(0, BLOCK_K)
        x = tl.load(
            x_ptr + local[:, None] * stride + k[None, :],
            mask=valid[:, None] & (k < K)[None, :],
            other=0.0,
        )
        weight = tl.load(
            weight_ptr + column[None, :] * K + k[:, None],
            mask=exists[None, :] & (k < K)[:, None],
            other=0.0,
        )
        acc = multiply_add(x, weight, acc, PRECISE)
    if SHIFT:
        acc -= shift[None, :]
    if NORM:
        acc = (acc - mean[:, None] * colsum[None, :]) * scale[:, None]
    if BIAS:
        acc += bias[None, :]
    acc = activate(acc, column, N, ACTIVATION, PRECISE)
    if RESIDUAL:
        acc += residual.to(tl.float32)
    tl.store(out_ptr + offset, acc.to(out_ptr.dtype.element_ty), mask=mask)


def linear_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    colsum: Tensor | None = None,
    statistics: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Activation = "none",
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Contract of `linear_ref`.

    Args:
        x: (..., K), leading axes contiguous with each other.
        weight: (N, K), dtype of x.
        bias: (N,) float32.
        colsum: (N,) float32, `weight.float().sum(1)`; together with `statistics`.
        statistics: (2, ...) float32, mean and 1 / sqrt(variance + eps) of each row of x, as
            `position_encoding_triton` gives them; then the rows are normalised first.
        shift: (N,) float32, product of the weight and an offset of x that the statistics leave out.
        out_dtype: of the result; that of x.

    Raises:
        ValueError: shapes do not fit, one of `colsum` and `statistics` is missing, or both are and
            there is a shift.
    """
    rows = x.reshape(-1, x.shape[-1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    (M, K), N = rows.shape, weight.shape[0]
    if weight.shape != (N, K):
        raise ValueError(f"weight must be (N, {K}), got {tuple(weight.shape)}")
    if (statistics is None) != (colsum is None):
        raise ValueError("statistics of the rows and sums of the weight's rows come together")
    if shift is not None and statistics is None:
        raise ValueError("only rows that are normalised have an offset")
    out = torch.empty((*x.shape[:-1], N), dtype=out_dtype or x.dtype, device=x.device)
    block_m, block_n, block_k, warps, stages = _tiles(M, N, K, x.dtype, _shared_bytes(x.device))
    _linear_kernel[(triton.cdiv(M, block_m) * triton.cdiv(N, block_n),)](
        rows,
        weight,
        weight if bias is None else bias,
        weight if colsum is None else colsum,
        weight if statistics is None else statistics,
        weight if shift is None else shift,
        out if residual is None else residual.contiguous(),
        out,
        M,
        N,
        K,
        rows.stride(0),
        NORM=statistics is not None,
        SHIFT=shift is not None,
        BIAS=bias is not None,
        ACTIVATION=_ACTIVATIONS[activation],
        RESIDUAL=residual is not None,
        PRECISE=is_precise(x.dtype),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        num_warps=warps,
        num_stages=stages,
        **overlapping(),
    )
    return out


def _shared_bytes(device: torch.device) -> int:
    """Shared memory for the stages of a multiprocessor's programs; without a GPU, a H100's."""
    if device.type != "cuda":
        return _SHARED_BYTES
    return min(_SHARED_BYTES, describe_device(device).shared_bytes - 8192)


def _tiles(
    M: int, N: int, K: int, dtype: torch.dtype, shared: int
) -> tuple[int, int, int, int, int]:
    """Rows, columns and depth of a tile, warps, pipeline stages."""
    if dtype == torch.float32:
        return 32, 32, 32, 4, 2
    block_k = 64 if K % 64 == 0 else 32
    block_n = min(128, max(16, next_power_of_2(N)))
    if M * N <= 132 * 64 * 64 * 2:
        # few tiles: smaller ones keep more of the chip busy
        block_m = 64 if M * N > 132 * 32 * 64 else 16
        # long sums of few tiles wait for memory at every block of theirs
        block_k = 128 if K % 128 == 0 and K >= 512 and block_m == 16 else block_k
        block_m, block_n = max(16, min(block_m, next_power_of_2(M))), min(64, block_n)
        if triton.cdiv(M, block_m) * triton.cdiv(N, block_n) < 100:
            block_n = min(32, block_n)
        programs = triton.cdiv(M, block_m) * triton.cdiv(N, block_n)
        stages = _stages(programs, K, block_k, shared // (2 * (block_m + block_n) * block_k))
        return block_m, block_n, block_k, 4, stages
    if block_n == 16:
        return 64, 16, block_k, 4, 3
    if block_n <= 64:
        # rows stream past a narrow weight: long pieces of them, and more programs side by side
        return 64, 32, 128 if K % 128 == 0 else block_k, 4, 3
    return (128, 128, block_k, 4, 3) if N >= 4 * K or N >= 1024 else (64, 128, block_k, 4, 3)


def _stages(programs: int, K: int, block_k: int, most: int) -> int:
    """Pipeline stages of a sum in blocks.

    One more than there are blocks, and all of them are on their way at once; as far as the programs
    of a multiprocessor can have them beside each other.

    Args:
        most: stages that the shared memory of a multiprocessor holds.
    """
    blocks = triton.cdiv(K, block_k)
    resident = triton.cdiv(programs, 132)
    if resident > 2:
        return max(2, min(4, blocks))
    return max(2, min(blocks + 1, most // resident))
