"""Image classification: backbone, LayerNorm, mean over positions, linear."""

from torch import Tensor, nn

from kernels import FUSED, KernelOps
from model.backbone import Backbone
from model.config import Variant


class Classifier(nn.Module):
    """Spatial-Mamba for classification."""

    def __init__(self, variant: Variant, num_classes: int, *, ops: KernelOps = FUSED) -> None:
        super().__init__()
        dim = variant.backbone.dims[-1]
        self.backbone = Backbone(variant.backbone, ops=ops)
        self.norm = nn.LayerNorm(dim, eps=variant.backbone.norm_eps)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, num_classes) logits."""
        x = self.norm(self.backbone(images)[-1])
        logits: Tensor = self.head(x.mean((1, 2)))
        return logits
