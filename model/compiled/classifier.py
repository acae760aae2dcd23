"""The classifier as it runs on a GPU."""

import torch
from torch import Tensor

from kernels.linear.triton_fwd import linear_triton
from kernels.pooled_norm.triton_fwd import pooled_norm_triton
from model.classifier import Classifier
from model.compiled.backbone import CompiledBackbone
from model.config import InputConfig


class CompiledClassifier:
    """See `model.classifier.Classifier`; the network is not changed."""

    def __init__(
        self,
        network: Classifier,
        config: InputConfig,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self._backbone = CompiledBackbone(network.backbone, config, dtype=dtype, device=device)
        norm, head = network.norm, network.head
        # the mean over positions commutes with the norm's gain and bias, which join the head
        weight = head.weight.detach().double()
        self._weight = (weight * norm.weight.detach().double()).to(device, dtype)
        bias = weight @ norm.bias.detach().double() + head.bias.detach().double()
        self._bias = bias.to(device, torch.float32)
        self._eps = norm.eps

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, H, W, 4), see `CompiledBackbone` -> (B, num_classes) float32 logits."""
        x = self._backbone(pictures)[-1]
        x = pooled_norm_triton(x, self._eps)
        return linear_triton(x, self._weight, self._bias, out_dtype=torch.float32)
