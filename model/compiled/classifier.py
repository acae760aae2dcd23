"""The classifier as it runs on a GPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

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
        x = F.layer_norm(x, (x.shape[-1],), eps=self._eps).flatten(1, 2)
        # the mean as a product and a factor of the logits: fewer and faster launches; its first
        # part is a power of two, which rounds nothing and keeps the sum in half precision's range
        tokens = x.shape[1]
        scale = 2.0 ** -(tokens.bit_length() - 1)
        total = x.new_full((x.shape[0], 1, tokens), scale) @ x
        logits = F.linear(total.squeeze(1), self._weight)
        return torch.add(self._bias, logits, alpha=1 / (tokens * scale))
