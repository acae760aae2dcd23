"""Classification: resize the shorter side, crop the centre; softmax."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import InputConfig
from model.resizing import resize_crop
from model.results import Classification, Params


class ClassifyTask:
    """Pure functions around `model.classifier.Classifier`; see `model.predictor.Task`."""

    def resize(self, rgb: NDArray[np.uint8], config: InputConfig) -> NDArray[np.uint8]:
        return resize_crop(rgb, short=config.short, crop=config.crop or config.short)

    def infer(
        self, network: nn.Module, images: Tensor, batch: Sequence[Any], params: Sequence[Params]
    ) -> list[Tensor]:
        """Per image (num_classes,) float32 logits."""
        return list(network(images).float().cpu())

    def finish(self, raw: Tensor, prepared: Any) -> Classification:
        return Classification(probabilities=raw.softmax(dim=0).numpy())
