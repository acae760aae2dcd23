"""UPerNet as it runs on a GPU: channels-last, and nothing is concatenated.

What is to lie side by side is written side by side: the resized maps go straight into their slices
of one map that is as wide as all of them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.upsample.triton_fwd import upsample_triton
from model.compiled.backbone import CompiledBackbone
from model.compiled.convolution import Weights, conv_relu, linear, linear_relu
from model.config import InputConfig
from model.layers import ConvNormAct, to_nchw, to_nhwc
from model.upernet import POOL_SIZES, PyramidPooling, Segmenter, UPerNetHead

# tensor cores want rows of 16 bytes
_ALIGNED_CHANNELS = 8


class CompiledSegmenter:
    """See `model.upernet.Segmenter`; the network is not changed.

    Args:
        network: as `model.inference.optimise_for_inference` leaves it.
        config: mean and standard deviation of the pixels.
        dtype: of maps, weights and products.
    """

    def __init__(
        self,
        network: Segmenter,
        config: InputConfig,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self._backbone = CompiledBackbone(network.backbone, config, dtype=dtype, device=device)
        self._head = CompiledUPerNetHead(network.head, dtype=dtype, device=device)

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, H, W, 4), see `CompiledBackbone` -> (B, ceil(H / 4), ceil(W / 4), K) logits.

        In the model's dtype; the last axis is contiguous, positions lie a little further apart.
        """
        return self._head(self._backbone(pictures))


class CompiledUPerNetHead:
    """See `model.upernet.UPerNetHead`."""

    def __init__(
        self, head: UPerNetHead, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self._pooling = _Pooling(head.pyramid_pooling, dtype=dtype, device=device)
        self._laterals = _folded(head.laterals, dtype, device)
        self._outputs = _folded(head.outputs, dtype, device)
        self._fuse = Weights.of(head.fuse.conv, dtype=dtype, device=device)
        self._num_classes = head.classify.out_channels
        self._classify = _padded(Weights.of(head.classify, dtype=dtype, device=device))

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        """Four (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, K) logits."""
        levels = [_pointwise(x, own) for x, own in zip(features[:-1], self._laterals, strict=True)]
        levels.append(self._pooling(features[-1]))
        for fine, coarse in zip(levels[-2::-1], levels[:0:-1], strict=True):
            # in place: each element is read by the program that writes it, just before
            upsample_triton(coarse, (fine.shape[1], fine.shape[2]), add=fine, out=fine)
        fused = conv_relu(to_nchw(self._merge(levels)), self._fuse)
        logits = linear(to_nhwc(fused), self._classify)
        return logits[..., : self._num_classes]

    def _merge(self, levels: Sequence[Tensor]) -> Tensor:
        """All levels at the size of the finest, side by side: (B, H_0, W_0, 4 C)."""
        batch, height, width, channels = levels[0].shape
        merged = levels[0].new_empty((batch, height, width, len(levels) * channels))
        slices = torch.split(merged, channels, dim=3)
        maps = [
            to_nhwc(conv_relu(to_nchw(x), own))
            for x, own in zip(levels[:-1], self._outputs, strict=True)
        ]
        slices[0].copy_(maps[0])
        for x, own in zip([*maps[1:], levels[-1]], slices[1:], strict=True):
            upsample_triton(x, (height, width), out=own)
        return merged


class _Pooling:
    """See `model.upernet.PyramidPooling`."""

    def __init__(
        self, pooling: PyramidPooling, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self._branches = _folded(pooling.branches, dtype, device)
        self._bottleneck = Weights.of(pooling.bottleneck.conv, dtype=dtype, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, channels)."""
        batch, height, width, channels = x.shape
        own = [len(branch.bias) for branch in self._branches]
        wide = x.new_empty((batch, height, width, channels + sum(own)))
        first, *slices = torch.split(wide, [channels, *own], dim=3)
        first.copy_(x)
        for size, branch, out in zip(POOL_SIZES, self._branches, slices, strict=True):
            pooled = to_nhwc(F.adaptive_avg_pool2d(to_nchw(x), size))
            upsample_triton(_pointwise(pooled, branch), (height, width), out=out)
        return to_nhwc(conv_relu(to_nchw(wide), self._bottleneck))


def _pointwise(x: Tensor, weights: Weights) -> Tensor:
    """1x1 convolution and ReLU of (B, H, W, C)."""
    tokens = linear_relu(x.reshape(-1, x.shape[3]), weights)
    return tokens.view(*x.shape[:3], -1)


def _folded(layers: nn.ModuleList, dtype: torch.dtype, device: torch.device | str) -> list[Weights]:
    return [
        Weights.of(layer.conv, dtype=dtype, device=device)
        for layer in layers
        if isinstance(layer, ConvNormAct)
    ]


def _padded(weights: Weights) -> Weights:
    """(O, I) -> the same with zero rows up to a multiple of 8."""
    missing = -len(weights.bias) % _ALIGNED_CHANNELS
    return Weights(
        F.pad(weights.weight, (0, 0, 0, missing)).contiguous(), F.pad(weights.bias, (0, missing))
    )
