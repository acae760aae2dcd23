"""State fusion by the library's depthwise convolutions, and its gradient."""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.state_fusion.reference import DILATIONS

BORDER: Final = max(DILATIONS)


def state_fusion_conv(state: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Same contract as `state_fusion_ref`.

    Half precision goes through the library in half precision; float32 and float64 stay exact.
    """
    return _fuse_padded(_pad(state), weight, scale)


def _pad(state: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H + 10, W + 10) in channels-last memory, border replicated."""
    return F.pad(state.permute(0, 3, 1, 2), (BORDER,) * 4, mode="replicate")


def _fuse_padded(padded: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    kernels = (weight * scale.view(-1, 1, 1, 1)).to(padded.dtype).unsqueeze(2)
    parts = []
    for kernel, dilation in zip(kernels, DILATIONS, strict=True):
        margin = BORDER - dilation
        inner = padded[:, :, margin : padded.shape[2] - margin, margin : padded.shape[3] - margin]
        parts.append(F.conv2d(inner, kernel, groups=padded.shape[1], dilation=dilation))
    return (parts[0] + parts[1] + parts[2]).permute(0, 2, 3, 1).contiguous()


def state_fusion_backward(
    grad: Tensor, state: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, ...]:
    """Gradients with respect to state, weight and scale.

    The convolutions are recomputed; the border's gradient is folded back by sums, since the
    library's own backward of replicated padding adds pixel by pixel.

    Args:
        grad: (B, H, W, C) gradient of the fused state.
        state: the forward pass's input, as are the rest.
    """
    inputs = [_pad(state).detach(), weight.detach(), scale.detach()]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        fused = _fuse_padded(*inputs)
    d_padded, d_weight, d_scale = torch.autograd.grad(fused, inputs, grad)
    d_state = _fold_border(_fold_border(d_padded, 2), 3)
    return d_state.permute(0, 2, 3, 1).contiguous(), d_weight, d_scale


def _fold_border(grad: Tensor, dim: int) -> Tensor:
    """Add what the replicated border received to the first and last line, and cut it off."""
    length = grad.shape[dim] - 2 * BORDER
    inner = grad.narrow(dim, BORDER, length).clone()
    inner.narrow(dim, 0, 1).add_(grad.narrow(dim, 0, BORDER).sum(dim, keepdim=True))
    last = grad.narrow(dim, BORDER + length, BORDER).sum(dim, keepdim=True)
    inner.narrow(dim, length - 1, 1).add_(last)
    return inner
