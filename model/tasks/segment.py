"""Segmentation: fit into (long, short); class map at the size of the original image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import InputConfig
from model.resizing import logits_to_label_map, resize_keep_ratio
from model.results import Params, Segmentation


class SegmentTask:
    """Pure functions around `model.upernet.Segmenter`; see `model.predictor.Task`."""

    def resize(self, rgb: NDArray[np.uint8], config: InputConfig) -> NDArray[np.uint8]:
        return resize_keep_ratio(rgb, long=config.long or config.short, short=config.short)

    def infer(
        self, network: nn.Module, images: Tensor, batch: Sequence[Any], params: Sequence[Params]
    ) -> list[Tensor]:
        """Per image (num_classes, ceil(H / 4), ceil(W / 4)) float32 logits, on the CPU."""
        return list(network(images).float().cpu())

    def finish(self, raw: Tensor, prepared: Any) -> Segmentation:
        return Segmentation(
            label_map=logits_to_label_map(raw, prepared.resized_hw, prepared.original_hw)
        )
