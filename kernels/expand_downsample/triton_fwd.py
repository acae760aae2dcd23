"""1x1 convolution, ReLU and depthwise 3x3 with stride 2 in one pass: the wide map stays on chip.

A program owns some rows of the answer and some channels, and walks along the rows. Each column of
the wide map is computed where it is needed: an even one once for each of three rows, an odd one
for the answers on either side of it. That is half as many products again as the map has values, and
saves writing and reading it, eight times as wide as what it is made of.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import as_tokens, next_power_of_2

# programs that fill an H100 twice
_MANY_PROGRAMS = 264


@triton.jit
def _wide_column(
    x_rows,
    row,
    column,
    H,
    W,
    stride,
    channel,
    inside,
    weight,
    bias,
    dy,
):
    """(rows, BLOCK_N) float32: the wide map at one column, dy below each row; zero outside."""
    exists = (row + dy >= 0) & (row + dy < H)
    x = tl.load(
        x_rows[:, None] + (dy * W + column) * stride + channel[None, :],
        mask=exists[:, None] & inside[None, :],
        other=0.0,
    )
    wide = tl.dot(x, weight, input_precision="ieee") + bias[None, :]
    # NaN must stay visible
    wide = tl.maximum(wide, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(exists[:, None], wide, 0.0)


@triton.jit(do_not_specialize=["R", "H", "W", "columns"])
def _expand_downsample_kernel(
    x_ptr,  # (B, H, W, C), tokens `stride` apart
    weight_ptr,  # (N, C)
    bias_ptr,  # (N,) float32
    taps_ptr,  # (9, N) float32
    taps_bias_ptr,  # (N,) float32
    out_ptr,  # (B, OH, OW, N)
    R,  # B OH rows of the answer
    H,
    W,
    C,
    N,
    stride,
    columns,  # of a row, for each program
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # neighbours among the programs read the same rows
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    exists_n = n < N
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists_r = r < R
    OH, OW = tl.cdiv(H, 2), tl.cdiv(W, 2)
    image, row = r // OH, 2 * (r % OH)
    # rows past the end repeat the last one; they are not written
    row = tl.where(exists_r, row, 0)
    image = tl.where(exists_r, image, 0)
    x_rows = x_ptr + (image * H + row).to(tl.int64) * W * stride
    out_rows = out_ptr + r.to(tl.int64) * OW * N
    written = exists_r[:, None] & exists_n[None, :]
    channel = tl.arange(0, BLOCK_C)
    inside = channel < C
    weight = tl.load(
        weight_ptr + n[None, :] * C + channel[:, None],
        mask=exists_n[None, :] & inside[:, None],
        other=0.0,
    )
    first = tl.program_id(2) * columns
    end = tl.minimum(first + columns, OW)
    acc = tl.zeros([BLOCK_R, BLOCK_N], dtype=tl.float32)
    # the column before the first one leaves its odd neighbour, and is not written
    for j in range(tl.maximum(first - 1, 0), tl.minimum(end, W // 2)):
        following = tl.zeros([BLOCK_R, BLOCK_N], dtype=tl.float32)
        for i in range(3):
            # taps are read anew: all nine would not fit the registers
            bias = tl.load(bias_ptr + n, mask=exists_n, other=0.0)
            tap = tl.load(taps_ptr + (3 * i + 1) * N + n, mask=exists_n, other=0.0)
            wide = _wide_column(
                x_rows, row, 2 * j, H, W, stride, channel, inside, weight, bias, i - 1
            )
            acc += wide * tap[None, :]
        for i in range(3):
            bias = tl.load(bias_ptr + n, mask=exists_n, other=0.0)
            right = tl.load(taps_ptr + (3 * i + 2) * N + n, mask=exists_n, other=0.0)
            left = tl.load(taps_ptr + 3 * i * N + n, mask=exists_n, other=0.0)
            wide = _wide_column(
                x_rows, row, 2 * j + 1, H, W, stride, channel, inside, weight, bias, i - 1
            )
            acc += wide * right[None, :]
            following += wide * left[None, :]
        _write(acc, taps_bias_ptr, out_rows, j, n, N, exists_n, written & (j >= first))
        acc = following
    if (end == OW) & (W % 2 == 1):
        for i in range(3):
            bias = tl.load(bias_ptr + n, mask=exists_n, other=0.0)
            tap = tl.load(taps_ptr + (3 * i + 1) * N + n, mask=exists_n, other=0.0)
            wide = _wide_column(
                x_rows, row, W - 1, H, W, stride, channel, inside, weight, bias, i - 1
            )
            acc += wide * tap[None, :]
        _write(acc, taps_bias_ptr, out_rows, OW - 1, n, N, exists_n, written)


@triton.jit
def _write(acc, taps_bias_ptr, out_rows, j, n, N, exists_n, written):
    """One column of the answer."""
    acc += tl.load(taps_bias_ptr + n, mask=exists_n, other=0.0)[None, :]
    acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(
        out_rows[:, None] + (j * N + n)[None, :],
        acc.to(out_rows.dtype.element_ty),
        mask=written,
    )


def expand_downsample_triton(
    x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor, taps_bias: Tensor
) -> Tensor:
    """Contract of `expand_downsample_ref`.

    Args:
        weight: (N, C), dtype of x.
        bias, taps_bias: (N,) float32.
        taps: (9, N) float32, row-major.
    """
    x, stride = as_tokens(x)
    B, H, W, C = x.shape
    OH, OW, N = triton.cdiv(H, 2), triton.cdiv(W, 2), weight.shape[0]
    out = torch.empty((B, OH, OW, N), dtype=x.dtype, device=x.device)
    block_r, block_n, warps = _tiles(B * OH, C, N, x.dtype)
    programs = triton.cdiv(N, block_n) * triton.cdiv(B * OH, block_r)
    columns = triton.cdiv(OW, min(OW, triton.cdiv(_MANY_PROGRAMS, programs)))
    grid = (triton.cdiv(N, block_n), triton.cdiv(B * OH, block_r), triton.cdiv(OW, columns))
    _expand_downsample_kernel[grid](
        x,
        weight,
        bias,
        taps,
        taps_bias,
        out,
        B * OH,
        H,
        W,
        C,
        N,
        stride,
        columns,
        BLOCK_R=block_r,
        BLOCK_C=max(16, next_power_of_2(C)),
        BLOCK_N=block_n,
        num_warps=warps,
        num_stages=2,
    )
    return out


def _tiles(rows: int, C: int, N: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Rows and channels of a tile, and warps."""
    block_n = max(16, min(64, next_power_of_2(N)))
    if dtype == torch.float32:
        return 16, min(32, block_n), 4
    # two tiles of x wait beside the weight: those of wide maps would leave one program alone
    most = 64 if C <= 128 else 32
    return max(16, min(most, next_power_of_2(rows))), block_n, 4
