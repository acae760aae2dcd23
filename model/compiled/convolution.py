"""Convolutions and matrix products with bias and ReLU in as few launches as the libraries allow."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one layer, cast and laid out once.

    Attributes:
        weight: (O, I, k, k) in channels-last memory, or (O, I).
        bias: (O,).
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: nn.Module, *, dtype: torch.dtype, device: torch.device | str) -> "Weights":
        """A copy of the parameters of a layer with bias; a 1x1 kernel becomes a matrix."""
        own = dict(layer.named_parameters(recurse=False))
        weight, bias = (
            own[name].detach().to(device, dtype, copy=True) for name in ("weight", "bias")
        )
        if weight.ndim == 4 and weight.shape[2:] == (1, 1):
            weight = weight.flatten(1)
        layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        return cls(weight.contiguous(memory_format=layout), bias)


def conv(x: Tensor, weights: Weights) -> Tensor:
    """Convolution with stride 1 that keeps the size.

    Args:
        x: (B, I, H, W) in channels-last memory.
        weights: (O, I, k, k), k odd.

    Returns:
        (B, O, H, W) in channels-last memory.
    """
    return F.conv2d(x, weights.weight, weights.bias, padding=weights.weight.shape[2] // 2)


def conv_relu(x: Tensor, weights: Weights) -> Tensor:
    """`conv`, then ReLU; on the GPU both in the convolution's own launch."""
    if not x.is_cuda:
        return conv(x, weights).relu_()
    padding = weights.weight.shape[2] // 2
    fused: Tensor = torch.cudnn_convolution_relu(
        x, weights.weight, weights.bias, (1, 1), (padding, padding), (1, 1), 1
    )
    return fused


def linear(x: Tensor, weights: Weights) -> Tensor:
    """(..., I) -> (..., O)."""
    return F.linear(x, weights.weight, weights.bias)


def linear_relu(x: Tensor, weights: Weights) -> Tensor:
    """(N, I) -> (N, O), then ReLU; on the GPU in the product's own launch."""
    return torch._addmm_activation(weights.bias, x, weights.weight.t(), use_gelu=False)
