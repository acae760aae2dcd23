"""The convolutions of the stem: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor


def picture_conv_ref(
    pictures: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> Tensor:
    """Normalise a picture, convolve 3x3 with stride 2, ReLU.

    Args:
        pictures: (B, H, W, 4): uint8 RGBX, X zero where there is no picture (padding, which is
            zero after normalisation); or floating point, already normalised, X ignored.
        scale: (3,) float32, 1 / std; uint8 only.
        shift: (3,) float32, -mean / std; uint8 only.
        weight: (N, 3, 3, 3), BatchNorm folded in.
        bias: (N,).
        dtype: of the normalised pixels and of the result; sums run in float32.

    Returns:
        (B, ceil(H / 2), ceil(W / 2), N).
    """
    compute = torch.promote_types(dtype, torch.float32)
    pixels = pictures[..., :3].to(compute)
    if pictures.dtype == torch.uint8:
        pixels = (pixels * scale + shift) * (pictures[..., 3:] > 0)
    pixels = pixels.to(dtype).to(compute).permute(0, 3, 1, 2)
    y = F.relu(F.conv2d(pixels, weight.to(compute), bias.to(compute), stride=2, padding=1))
    return y.permute(0, 2, 3, 1).contiguous().to(dtype)


def conv3x3_ref(
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
    """Dense 3x3 convolution, then optionally ReLU, a residual, and a 1x1 convolution.

    Args:
        x: (B, H, W, K).
        weight: (N, K, 3, 3), zero padding.
        bias: (N,).
        residual: (B, H', W', N), added after the ReLU.
        project_weight: (M, N) of a 1x1 convolution behind the ReLU; excludes a residual.
        project_bias: (M,).

    Returns:
        (B, H', W', N or M), H' = ceil(H / stride); float32 (or float64) inside, the values between
        the two convolutions rounded to the dtype.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    planes = x.to(compute).permute(0, 3, 1, 2)
    y = F.conv2d(planes, weight.to(compute), bias.to(compute), stride=stride, padding=1)
    y = (F.relu(y) if relu else y).permute(0, 2, 3, 1)
    if residual is not None:
        y = y + residual.to(compute)
    if project_weight is not None and project_bias is not None:
        y = y.to(x.dtype).to(compute)
        y = F.linear(y, project_weight.to(compute), project_bias.to(compute))
    return y.contiguous().to(x.dtype)
