"""The backbone as it runs on a GPU: weights folded, laid out and cast once, few kernels a block.

Narrow stages are bound by memory: there position encoding, norm and what follows them run fused,
the input projection up to C = 64 and the MLP up to C = 128, seven or eight kernels a block. In wide
stages all matrix products stand alone, ten kernels a block (docs/performance.md has the reasons).
With few tokens there is one less: the convolution does the projection to dt, B and C as well.
"""

from typing import Final

import torch
from torch import Tensor, nn

from kernels.depthwise.forward import conv_projection, position_encoding
from kernels.expand_downsample.forward import expand_downsample
from kernels.layer_norm.triton_fwd import layer_norm_triton
from kernels.linear.forward import add_product_, is_left_to_library, linear
from kernels.position_linear.triton_fwd import position_linear_triton
from kernels.position_mlp.triton_fwd import position_mlp_triton
from kernels.selective_scan.forward import low_rank_scan
from kernels.state_fusion.forward import gated_fusion
from kernels.state_fusion.gated import merge_taps
from kernels.stem.triton_fwd import (
    conv3x3_triton,
    pack_conv_weight,
    pack_picture_weight,
    picture_conv_triton,
)
from model.backbone import Backbone, Block
from model.config import InputConfig
from model.layers import ConvNormAct, Downsample, PositionEncoding, Stem

# widest maps whose input projection and whose MLP run fused with their neighbours
MAX_FUSED_PROJECTION: Final = 64
MAX_FUSED_MLP: Final = 128
_FEW_TOKENS: Final = 8192


class _Cast:
    """Where weights go: products in the model's dtype, everything else in float32."""

    def __init__(self, dtype: torch.dtype, device: torch.device | str) -> None:
        self.dtype, self.device = dtype, device

    def product(self, x: Tensor) -> Tensor:
        return x.detach().to(self.device, self.dtype).contiguous()

    def exact(self, x: Tensor) -> Tensor:
        return x.detach().to(self.device, torch.float32).contiguous()

    def taps(self, weight: Tensor) -> Tensor:
        """(C, 1, 3, 3) -> (9, C) float32."""
        return self.exact(weight.reshape(weight.shape[0], 9).t())


class _NormedLinear:
    """A linear layer with the LayerNorm before it folded in; only the statistics remain."""

    def __init__(self, norm: nn.LayerNorm, linear: nn.Linear, cast: _Cast) -> None:
        weight = linear.weight.detach().double()
        bias = weight @ norm.bias.detach().double()
        if linear.bias is not None:
            bias = bias + linear.bias.detach().double()
        self.weight = cast.product(weight * norm.weight.detach().double())
        self.bias = cast.exact(bias)
        # of the rounded weights, so that mean and product cancel exactly
        self.colsum = cast.exact(self.weight.float().sum(1))
        self.eps = norm.eps


class _Position:
    def __init__(self, layer: PositionEncoding, cast: _Cast) -> None:
        if layer.bias is None:
            raise ValueError("a position encoding has a bias")
        self.weight, self.bias = cast.taps(layer.weight), cast.exact(layer.bias)


def _early_bias(
    position: _Position, fc1: _NormedLinear, fc2_bias: Tensor, cast: _Cast
) -> tuple[Tensor, Tensor, Tensor]:
    """The MLP's last bias added before the MLP, to the map that its last product is added to.

    The library adds a product to a bias or to a map, not to both.

    Returns:
        bias of the position encoding with the other one, that one alone, which the norm must not
        see, and its product with the weight of fc1, which must not see it either; all float32.
    """
    shift = fc1.weight.double() @ fc2_bias.double()
    return position.bias + fc2_bias, fc2_bias, cast.exact(shift)


class CompiledBlock:
    """One block; see `model.backbone.Block`."""

    def __init__(self, block: Block, cast: _Cast) -> None:
        mixer = block.mixer
        self._dim = block.norm1.normalized_shape[0]
        self._inner = 2 * self._dim
        self._position1 = _Position(block.position1, cast)
        self._position2 = _Position(block.position2, cast)
        self._in_proj = _NormedLinear(block.norm1, mixer.in_proj, cast)
        self._fc1 = _NormedLinear(block.norm2, block.mlp.fc1, cast)
        self._fc2_weight = cast.product(block.mlp.fc2.weight)
        self._fc2_bias = cast.exact(block.mlp.fc2.bias)
        self._early_bias = _early_bias(self._position2, self._fc1, self._fc2_bias, cast)
        self._conv_weight = cast.taps(mixer.conv.weight)
        self._conv_bias = cast.exact(_bias(mixer.conv))
        self._x_proj = cast.product(mixer.x_proj.weight)
        self._dt_weight = cast.product(mixer.dt_proj.weight.t())
        self._dt_bias = cast.exact(mixer.dt_bias)
        self._A = cast.exact(-torch.exp(mixer.A_log.detach().double().squeeze(1)))
        fusion = mixer.state_fusion
        self._taps = cast.exact(merge_taps(fusion.weight * fusion.scale.view(-1, 1, 1, 1)))
        self._D = cast.exact(mixer.D)
        self._out_norm = mixer.out_norm
        self._norm_weight = cast.exact(mixer.out_norm.weight)
        self._norm_bias = cast.exact(mixer.out_norm.bias)
        self._out_proj = cast.product(mixer.out_proj.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> same."""
        x1, xz = self._project_in(x)
        u, projected = conv_projection(
            xz[..., : self._inner], self._conv_weight, self._conv_bias, self._x_proj
        )
        state = low_rank_scan(u, projected, self._dt_weight, self._dt_bias, self._A)
        gated = gated_fusion(
            state,
            u,
            projected,
            xz[..., self._inner :],
            self._taps,
            self._D,
            self._norm_weight,
            self._norm_bias,
            self._out_norm.eps,
        )
        return self._mlp(add_product_(x1, gated, self._out_proj))

    def _project_in(self, x: Tensor) -> tuple[Tensor, Tensor]:
        position, layer = self._position1, self._in_proj
        if self._dim <= MAX_FUSED_PROJECTION:
            return position_linear_triton(
                x, position.weight, position.bias, layer.weight, layer.bias, layer.eps
            )
        x1, statistics = position_encoding(x, position.weight, position.bias, layer.eps)
        return x1, linear(
            x1,
            layer.weight,
            layer.bias,
            colsum=layer.colsum,
            statistics=statistics,
            activation="silu_second_half",
        )

    def _mlp(self, x: Tensor) -> Tensor:
        position, fc1 = self._position2, self._fc1
        if _fuses_mlp(self._dim, x[..., 0].numel()):
            return position_mlp_triton(
                x,
                position.weight,
                position.bias,
                fc1.weight,
                fc1.bias,
                self._fc2_weight,
                self._fc2_bias,
                fc1.eps,
            )
        by_library = is_left_to_library(x)
        bias, offset, shift = self._early_bias if by_library else (position.bias, None, None)
        x1, statistics = position_encoding(x, position.weight, bias, fc1.eps, offset)
        hidden = linear(
            x1,
            fc1.weight,
            fc1.bias,
            colsum=fc1.colsum,
            statistics=statistics,
            shift=shift,
            activation="gelu",
        )
        if by_library:
            return add_product_(x1, hidden, self._fc2_weight)
        return linear(hidden, self._fc2_weight, self._fc2_bias, residual=x1)


class CompiledStem:
    """Picture -> tokens at a quarter of the resolution; see `model.layers.Stem`."""

    def __init__(self, stem: Stem, config: InputConfig, cast: _Cast) -> None:
        mean, std = torch.tensor((*config.mean, 0.0)), torch.tensor((*config.std, 1.0))
        self._scale, self._shift = cast.exact(1 / std), cast.exact(-mean / std)
        first, second = (_conv(layer) for layer in stem.residual)
        wide, project = (_conv(layer) for layer in stem.project)
        reduce = _conv(stem.reduce)
        self._reduce = pack_picture_weight(cast.exact(reduce.weight), cast.dtype)
        self._reduce_bias = cast.exact(_bias(reduce))
        self._residual = [
            (pack_conv_weight(cast.exact(conv.weight), cast.dtype), cast.exact(_bias(conv)))
            for conv in (first, second)
        ]
        self._wide = pack_conv_weight(cast.exact(wide.weight), cast.dtype)
        self._wide_bias = cast.exact(_bias(wide))
        self._project = cast.product(project.weight.flatten(1).t())
        self._project_bias = cast.exact(_bias(project))

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, H, W, 4) RGBX uint8, or normalised -> (B, ceil(H / 4), ceil(W / 4), C)."""
        x = picture_conv_triton(pictures, self._scale, self._shift, self._reduce, self._reduce_bias)
        (weight1, bias1), (weight2, bias2) = self._residual
        y = conv3x3_triton(x, weight1, bias1)
        x = conv3x3_triton(y, weight2, bias2, relu=False, residual=x)
        return conv3x3_triton(
            x,
            self._wide,
            self._wide_bias,
            stride=2,
            project_weight=self._project,
            project_bias=self._project_bias,
        )


class CompiledDownsample:
    """Halve the resolution, double the channels; see `model.layers.Downsample`."""

    def __init__(self, layer: Downsample, cast: _Cast) -> None:
        expand, depthwise, project = map(_conv, (layer.expand, layer.depthwise, layer.project))
        self._expand = cast.product(expand.weight.flatten(1))
        self._expand_bias = cast.exact(_bias(expand))
        self._taps, self._taps_bias = cast.taps(depthwise.weight), cast.exact(_bias(depthwise))
        self._project = cast.product(project.weight.flatten(1))
        self._project_bias = cast.exact(_bias(project))

    def __call__(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2C)."""
        small = expand_downsample(x, self._expand, self._expand_bias, self._taps, self._taps_bias)
        return linear(small, self._project, self._project_bias)


class CompiledBackbone:
    """Pictures -> feature maps of the four stages.

    Args:
        backbone: already through `optimise_for_inference`; it is not changed.
        config: mean and standard deviation of the pixels.
        dtype: of maps and products; sums, states and norms are float32.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: InputConfig,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        cast = _Cast(dtype, device)
        self._stem = CompiledStem(backbone.stem, config, cast)
        self._stages = [
            [CompiledBlock(block, cast) for block in stage.children() if isinstance(block, Block)]
            for stage in backbone.stages
        ]
        self._downsamples = [
            CompiledDownsample(layer, cast)
            for layer in backbone.downsamples
            if isinstance(layer, Downsample)
        ]
        self._norms = [
            (cast.exact(norm.weight), cast.exact(norm.bias), norm.eps)
            for norm in backbone.output_norms or ()
            if isinstance(norm, nn.LayerNorm)
        ]

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """Feature maps at strides 4, 8, 16 and 32.

        Args:
            pictures: (B, H, W, 4) uint8 RGBX, X zero in the padding; or normalised values in the
                model's dtype, X ignored.

        Returns:
            four maps (B, ceil(H / s), ceil(W / s), dims[i]), normalised where the model has
            output norms.
        """
        x = self._stem(pictures)
        features = []
        for i, stage in enumerate(self._stages):
            for block in stage:
                x = block(x)
            features.append(self._normalise(i, x))
            if i < len(self._downsamples):
                x = self._downsamples[i](x)
        return features

    def _normalise(self, stage: int, x: Tensor) -> Tensor:
        if not self._norms:
            return x
        weight, bias, eps = self._norms[stage]
        return layer_norm_triton(x, weight, bias, eps)


def _fuses_mlp(dim: int, tokens: int) -> bool:
    """Whether one launch serves a whole MLP best: wider maps need tokens to fill the chip."""
    return dim <= MAX_FUSED_PROJECTION or (dim <= MAX_FUSED_MLP and tokens >= _FEW_TOKENS)


def _conv(layer: nn.Module) -> nn.Conv2d:
    """The convolution of a layer that has one."""
    if not isinstance(layer, ConvNormAct):
        raise TypeError(f"expected ConvNormAct, got {type(layer).__name__}")
    return layer.conv


def _bias(layer: nn.Conv2d) -> Tensor:
    """The bias of a layer that has one: all have, once BatchNorm is folded in."""
    if layer.bias is None:
        raise ValueError("fold the norms first: optimise_for_inference")
    return layer.bias.detach()
