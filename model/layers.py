"""Building blocks without a state: convolutions with norms, the stem, down-sampling, the MLP."""

import torch.nn.functional as F
from torch import Tensor, nn


def to_nchw(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W) in channels-last memory, nothing is copied."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), nothing is copied."""
    return x.permute(0, 2, 3, 1)


class ConvNormAct(nn.Module):
    """Convolution, then optionally BatchNorm, then optionally ReLU.

    Args:
        kernel: side of the square kernel, pixels; padding keeps the size at stride 1.
        bias: bias of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=bias,
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class Stem(nn.Module):
    """Image -> tokens at a quarter of the resolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        self.reduce = ConvNormAct(3, half, 3, stride=2)
        self.residual = nn.Sequential(
            ConvNormAct(half, half, 3), ConvNormAct(half, half, 3, act=False)
        )
        self.project = nn.Sequential(
            ConvNormAct(half, 4 * dim, 3, stride=2), ConvNormAct(4 * dim, dim, 1, act=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, ceil(H / 4), ceil(W / 4), dim)."""
        x = self.reduce(images)
        x = x + self.residual(x)
        return to_nhwc(self.project(x))


class Downsample(nn.Module):
    """Halve the resolution, double the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 8 * dim
        self.expand = ConvNormAct(dim, hidden, 1, bias=True, norm=False)
        self.depthwise = ConvNormAct(
            hidden, hidden, 3, stride=2, groups=hidden, bias=True, norm=False
        )
        self.project = ConvNormAct(hidden, 2 * dim, 1, bias=True, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2C)."""
        return to_nhwc(self.project(self.depthwise(self.expand(to_nchw(x)))))


class PositionEncoding(nn.Conv2d):
    """Conditional position encoding: depthwise 3x3 with zero padding, added by the caller."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> same."""
        return to_nhwc(super().forward(to_nchw(x)))


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out
