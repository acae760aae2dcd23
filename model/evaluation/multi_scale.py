"""Segmentation averaged over sizes and mirror images of each picture, as published tables do it.

The published evaluation (`--tta`, mmsegmentation's `SegTTAModel`) resizes the original picture by
each ratio, not the picture that a single pass sees, and averages probabilities, not logits, at the
original size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import ModelSpec, TaskName
from model.predictor import Predictor, Prepared
from model.resizing import iter_full_logits, normalise, resize_keep_ratio
from model.results import Params, Segmentation

RATIOS: Final = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclass(frozen=True, slots=True)
class PreparedViews:
    """One picture as the network sees it.

    Attributes:
        views: for each ratio the picture and its mirror image.
    """

    views: tuple[Prepared, ...]
    original_hw: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Pictures of one size have views of the same sizes, and share a batch."""
        return self.original_hw


class MultiScaleSegmenter:
    """The three steps of a `Predictor`, each for all views of a picture.

    Raises:
        ValueError: not a model for segmentation.
    """

    def __init__(self, predictor: Predictor, *, ratios: Sequence[float] = RATIOS) -> None:
        if predictor.spec.task is not TaskName.SEGMENT:
            raise ValueError(f"{predictor.spec.name} is a model for {predictor.spec.task}")
        self.spec: ModelSpec = predictor.spec
        self._predictor = predictor
        self._ratios = tuple(ratios)

    @classmethod
    def load(cls, path: Path, *, device: str) -> "MultiScaleSegmenter":
        """Open a model file.

        Raises:
            CheckpointError: the file cannot be read or its weights do not fit.
        """
        return cls(Predictor.load(path, device=device))

    def prepare(self, rgb: NDArray[np.uint8]) -> PreparedViews:
        """Resize, mirror and normalise one picture, (H, W, 3) uint8, upright."""
        original_hw = (rgb.shape[0], rgb.shape[1])
        views = []
        for ratio in self._ratios:
            resized = _resized(rgb, ratio)
            hw = (resized.shape[0], resized.shape[1])
            pixels = normalise(resized, self.spec.input)
            mirrored = normalise(np.ascontiguousarray(resized[:, ::-1]), self.spec.input)
            views += [Prepared(own, hw, original_hw) for own in (pixels, mirrored)]
        return PreparedViews(tuple(views), original_hw)

    def infer(self, batch: Sequence[PreparedViews], params: Sequence[Params]) -> list[list[Tensor]]:
        """Run the network on all views of pictures of one size.

        Returns:
            per picture and view (num_classes, h, w) float32 logits on the CPU.
        """
        raws: list[list[Tensor]] = [[] for _ in batch]
        for i in range(2 * len(self._ratios)):
            found = self._predictor.infer([picture.views[i] for picture in batch], params)
            for own, logits in zip(raws, found, strict=True):
                own.append(logits)
        return raws

    @torch.inference_mode()
    def finish(self, raw: Sequence[Tensor], prepared: PreparedViews) -> Segmentation:
        """Mean of the views' probabilities at the original size, best class of each pixel."""
        strips = [
            iter_full_logits(
                logits.flip(-1) if i % 2 else logits, view.resized_hw, prepared.original_hw
            )
            for i, (logits, view) in enumerate(zip(raw, prepared.views, strict=True))
        ]
        labels = []
        for parts in zip(*strips, strict=True):
            total = parts[0].softmax(dim=0)
            for part in parts[1:]:
                total += part.softmax(dim=0)
            labels.append(total.argmax(dim=0).to(torch.uint8))
        return Segmentation(label_map=torch.cat(labels).numpy())


def _resized(rgb: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    """Rounded twice, as published: the goal, then what keeps the aspect ratio inside it."""
    sides = [max(1, int(side * ratio + 0.5)) for side in rgb.shape[:2]]
    return resize_keep_ratio(rgb, long=max(sides), short=min(sides))
