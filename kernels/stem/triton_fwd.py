"""The stem's convolutions as implicit matrix products over channels-last maps.

The library's convolutions are made for hundreds of channels; with 3 to 48 they leave most of the
memory bandwidth unused, and bias, ReLU and residual cost further passes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dependent_launch import await_predecessor, overlapping
from kernels.layout import next_power_of_2
from kernels.triton_math import token_position


@triton.jit(do_not_specialize=["T", "H", "W", "OH", "OW"])
def _picture_conv_kernel(
    pictures_ptr,  # (B, H, W) int32 words of RGBX with IS_PACKED, else (B, H, W, 4)
    scale_ptr,  # (4,) float32
    shift_ptr,  # (4,) float32
    weight_ptr,  # (3, 16, N): row of taps, then 4 * column + colour, rest zero
    bias_ptr,  # (N,) float32
    out_ptr,  # (B, OH, OW, N)
    T,
    H,
    W,
    OH,
    OW,
    N,
    IS_PACKED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    start = tl.program_id(0) * BLOCK_T
    token = start + tl.arange(0, BLOCK_T)
    valid = token < T
    row, col = token_position(token, OH, OW)
    image = (token // (OH * OW)).to(tl.int64)
    k = tl.arange(0, 16)
    colour = k % 4
    shift_col = k // 4 - 1
    column = tl.arange(0, BLOCK_N)
    exists = column < N
    used = (k < 12) & (colour < 3)
    scale = tl.load(scale_ptr + colour)
    shift = tl.load(shift_ptr + colour)
    await_predecessor(OVERLAP)
    acc = tl.zeros([BLOCK_T, BLOCK_N], dtype=tl.float32)
    for i in tl.static_range(3):
        r = 2 * row + (i - 1)
        c = 2 * col[:, None] + shift_col[None, :]
        inside = (valid & (r >= 0) & (r < H))[:, None] & (c >= 0) & (c < W) & used[None, :]
        pixel = ((image * H + r) * W)[:, None] + c
        if IS_PACKED:
            # one word a pixel: the colour, and in the highest byte whether it is there
            word = tl.load(pictures_ptr + pixel, mask=inside, other=0)
            value = ((word >> (8 * colour)[None, :]) & 255).to(tl.float32)
            value = value * scale[None, :] + shift[None, :]
            value = tl.where((word >> 24) != 0, value, 0.0)
        else:
            value = tl.load(pictures_ptr + pixel * 4 + colour[None, :], mask=inside, other=0.0)
            value = value.to(tl.float32)
        weight = tl.load(
            weight_ptr + (i * 16 + k)[:, None] * N + column[None, :],
            mask=exists[None, :],
            other=0.0,
        )
        acc = tl.dot(value.to(weight.dtype), weight, acc, input_precision="ieee")
    acc += tl.load(bias_ptr + column, mask=exists, other=0.0)[None, :]
    # not max(): NaN must stay visible
    acc = tl.where(acc < 0.0, 0.0, acc)
    tl.store(
        out_ptr + token.to(tl.int64)[:, None] * N + column[None, :],
        acc.to(out_ptr.dtype.element_ty),
        mask=valid[:, None] & exists[None, :],
    )


def pack_picture_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, 3, 3, 3) -> (3, 16, N) as the kernel reads it: row, 4 * column + colour."""
    packed = weight.new_zeros((3, 4, 4, weight.shape[0]))
    packed[:, :3, :3] = weight.permute(2, 3, 1, 0)
    return packed.reshape(3, 16, -1).to(dtype).contiguous()


def picture_conv_triton(
    pictures: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Contract of `picture_conv_ref`.

    Args:
        scale, shift: (4,) float32, the last value unused.
        weight: of `pack_picture_weight`; its dtype is that of the result.
        bias: (N,) float32.
    """
    pictures = pictures.contiguous()
    B, H, W, _ = pictures.shape
    N, OH, OW = weight.shape[2], triton.cdiv(H, 2), triton.cdiv(W, 2)
    T = B * OH * OW
    out = torch.empty((B, OH, OW, N), dtype=weight.dtype, device=pictures.device)
    block_t, warps = _picture_tiles(T)
    is_packed = pictures.dtype == torch.uint8
    _picture_conv_kernel[(triton.cdiv(T, block_t),)](
        pictures.view(torch.int32) if is_packed else pictures,
        scale,
        shift,
        weight,
        bias,
        out,
        T,
        H,
        W,
        OH,
        OW,
        N,
        IS_PACKED=is_packed,
        BLOCK_T=block_t,
        BLOCK_N=max(16, next_power_of_2(N)),
        num_warps=warps,
        num_stages=1,
        **overlapping(),
    )
    return out


def _picture_tiles(T: int) -> tuple[int, int]:
    """Tokens of a tile, and warps."""
    return (128 if T > 132 * 128 else 16), 4


@triton.jit
def _convolve_tile(
    x_ptr,
    weight_ptr,
    image,
    row,
    col,
    valid,
    column,
    bias_ptr,
    H,
    W,
    N,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """(tokens, columns) float32: convolution, bias, ReLU."""
    exists = column < N
    k = tl.arange(0, BLOCK_K)
    used = k < K
    acc = tl.zeros([row.shape[0], column.shape[0]], dtype=tl.float32)
    for tap in range(9):
        r = STRIDE * row + (tap // 3 - 1)
        c = STRIDE * col + (tap % 3 - 1)
        inside = valid & (r >= 0) & (r < H) & (c >= 0) & (c < W)
        x = tl.load(
            x_ptr + (((image * H + r) * W + c) * K)[:, None] + k[None, :],
            mask=inside[:, None] & used[None, :],
            other=0.0,
        )
        weight = tl.load(
            weight_ptr + (tap * K + k)[:, None] * N + column[None, :],
            mask=used[:, None] & exists[None, :],
            other=0.0,
        )
        acc = tl.dot(x, weight, acc, input_precision="ieee")
    acc += tl.load(bias_ptr + column, mask=exists, other=0.0)[None, :]
    if RELU:
        # not max(): NaN must stay visible
        acc = tl.where(acc < 0.0, 0.0, acc)
    return acc


@triton.jit(do_not_specialize=["T", "H", "W", "OH", "OW"])
def _conv3x3_kernel(
    x_ptr,  # (B, H, W, K)
    weight_ptr,  # (9, K, N)
    bias_ptr,  # (N,) float32
    residual_ptr,  # (B, OH, OW, N); read with RESIDUAL
    project_ptr,  # (N, M); read with PROJECT
    project_bias_ptr,  # (M,) float32; read with PROJECT
    out_ptr,  # (B, OH, OW, M); M is N without PROJECT
    T,
    H,
    W,
    OH,
    OW,
    M,
    K: tl.constexpr,
    N: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PROJECT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    valid = token < T
    row, col = token_position(token, OH, OW)
    image = (token // (OH * OW)).to(tl.int64)
    out = tl.arange(0, BLOCK_M)
    wanted = out < M
    await_predecessor(OVERLAP)
    if PROJECT:
        y = tl.zeros([BLOCK_T, BLOCK_M], dtype=tl.float32)
        # the columns between the two convolutions come block by block
        for start in tl.static_range(0, N, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            acc = _convolve_tile(
                x_ptr,
                weight_ptr,
                image,
                row,
                col,
                valid,
                column,
                bias_ptr,
                H,
                W,
                N,
                K,
                STRIDE,
                RELU,
                BLOCK_K,
            )
            project = tl.load(
                project_ptr + column[:, None] * M + out[None, :],
                mask=(column < N)[:, None] & wanted[None, :],
                other=0.0,
            )
            y = tl.dot(acc.to(project.dtype), project, y, input_precision="ieee")
    else:
        column = out
        y = _convolve_tile(
            x_ptr,
            weight_ptr,
            image,
            row,
            col,
            valid,
            column,
            bias_ptr,
            H,
            W,
            N,
            K,
            STRIDE,
            RELU,
            BLOCK_K,
        )
    offset = token.to(tl.int64)[:, None] * M + out[None, :]
    mask = valid[:, None] & wanted[None, :]
    if PROJECT:
        y += tl.load(project_bias_ptr + out, mask=wanted, other=0.0)[None, :]
    if RESIDUAL:
        y += tl.load(residual_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offset, y.to(out_ptr.dtype.element_ty), mask=mask)


def pack_conv_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, K, 3, 3) -> (9, K, N) as the kernel reads it."""
    return weight.permute(2, 3, 1, 0).reshape(9, weight.shape[1], -1).to(dtype).contiguous()


def conv3x3_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    relu: bool = True,
    residual: Tensor | None = None,
    project_weight: Tensor | None = None,
    project_bias: Tensor | None = None,
) -> Tensor:
    """Contract of `conv3x3_ref` for few channels: all N sums of a token stay in registers.

    Args:
        x: (B, H, W, K), K a multiple of 16 and at most 64.
        weight: of `pack_conv_weight`, dtype of x.
        bias, project_bias: float32.
        project_weight: (N, M), the transpose of the 1x1 convolution's weight, dtype of x.

    Raises:
        ValueError: another K or N, or a projection together with a residual.
    """
    x = x.contiguous()
    B, H, W, K = x.shape
    N = weight.shape[2]
    is_projecting = project_weight is not None
    if K % 16 or K > 64 or (is_projecting and residual is not None):
        raise ValueError(f"K must be 16, 32, 48 or 64 and residual excludes projection, got {K}")
    M = N if project_weight is None else project_weight.shape[1]
    OH, OW = triton.cdiv(H, stride), triton.cdiv(W, stride)
    T = B * OH * OW
    out = torch.empty((B, OH, OW, M), dtype=x.dtype, device=x.device)
    block_n = max(16, next_power_of_2(N))
    # 256 columns fit the registers, more come block by block
    block_n = block_n if block_n <= 256 else 128
    if not is_projecting and block_n < N:
        raise ValueError(f"without projection N is at most 256, got {N}")
    block_t, warps, stages = _conv_tiles(T, N, x.dtype)
    _conv3x3_kernel[(triton.cdiv(T, block_t),)](
        x,
        weight,
        bias,
        out if residual is None else residual.contiguous(),
        weight if project_weight is None else project_weight,
        bias if project_bias is None else project_bias,
        out,
        T,
        H,
        W,
        OH,
        OW,
        M,
        K=K,
        N=N,
        STRIDE=stride,
        RELU=relu,
        RESIDUAL=residual is not None,
        PROJECT=is_projecting,
        BLOCK_T=block_t,
        BLOCK_N=block_n,
        BLOCK_K=next_power_of_2(K),
        BLOCK_M=max(16, next_power_of_2(M)),
        num_warps=warps,
        num_stages=stages,
        **overlapping(),
    )
    return out


def _conv_tiles(T: int, N: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Tokens of a tile, warps, pipeline stages."""
    if dtype == torch.float32 or T <= 132 * 64:
        return 16, 4, 3
    if N > 256:
        return 64, 4, 4
    return (128, 8, 3) if N > 64 else (128, 4, 3) if N > 32 else (64, 4, 3)
