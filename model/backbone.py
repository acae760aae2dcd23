"""The Spatial-Mamba backbone: images -> feature maps of the four stages."""

from torch import Tensor, nn

from kernels import FUSED, KernelOps
from model.config import BackboneConfig
from model.layers import Downsample, Mlp, PositionEncoding, Stem
from model.ssm import StructureAwareSSM


class Block(nn.Module):
    """Position encoding, state space layer, position encoding, MLP; each adds to its input."""

    def __init__(self, dim: int, config: BackboneConfig, ops: KernelOps) -> None:
        super().__init__()
        self.position1 = PositionEncoding(dim)
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mixer = StructureAwareSSM(
            dim,
            expansion=config.ssm_expansion,
            state_dim=config.state_dim,
            norm_eps=config.norm_eps,
            ops=ops,
        )
        self.position2 = PositionEncoding(dim)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, config.mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> same."""
        x = x + self.position1(x)
        x = x + self.mixer(self.norm1(x))
        x = x + self.position2(x)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Backbone(nn.Module):
    """Stem and four stages.

    Args:
        output_norms: add one LayerNorm per stage output, as the dense-task models have.
        ops: the operators, `kernels.FUSED` (served) or `kernels.REFERENCE` (truth).
    """

    def __init__(
        self, config: BackboneConfig, *, output_norms: bool = False, ops: KernelOps = FUSED
    ) -> None:
        super().__init__()
        self.stem = Stem(config.dims[0])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, config, ops) for _ in range(depth)))
            for dim, depth in zip(config.dims, config.depths, strict=True)
        )
        self.downsamples = nn.ModuleList(Downsample(dim) for dim in config.dims[:-1])
        self.output_norms = (
            nn.ModuleList(nn.LayerNorm(dim, eps=config.norm_eps) for dim in config.dims)
            if output_norms
            else None
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps at strides 4, 8, 16 and 32.

        Args:
            images: (B, 3, H, W) normalised; any H and W.

        Returns:
            four maps (B, ceil(H / s), ceil(W / s), dims[i]); normalised when built with
            `output_norms`, while each next stage continues from the un-normalised map.
        """
        x = self.stem(images)
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            features.append(x if self.output_norms is None else self.output_norms[i](x))
            if i < len(self.downsamples):
                x = self.downsamples[i](x)
        return features
