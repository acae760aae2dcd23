"""Composition of labelled pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.compose.background import draw_background
from demo.compose.camera import photograph
from demo.compose.layers import Layers
from demo.compose.pack import CLUTTER, Pack, Split
from demo.compose.pasting import footprint, paste
from demo.compose.sticker import masquerade, warp

MAX_OBJECTS: Final = 8
_TRIES: Final = 6
# up to this share of an object may leave the picture
_OUTSIDE: Final = 0.18


class Scene(TypedDict):
    """A picture and everything that is known about it. Boxes and masks cover what is visible.

    Attributes:
        image: (H, W, 3) uint8.
        boxes: (N, 4) float32, x1 y1 x2 y2, pixels.
        labels: (N,) int64 class ids.
        masks: (N, H, W) bool, disjoint.
        semantic: (H, W) uint8, 0 background, class id + 1 elsewhere.
        visible: (N,) float32, share of each object that is seen.
        sources: where each object's cut-out comes from.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]
    semantic: NDArray[np.uint8]
    visible: NDArray[np.float32]
    sources: tuple[str, ...]


class Composer:
    """Makes pictures without end; the same arguments give the same pictures.

    Args:
        pack: folder that `demo.pack` made.
        size: side of the square pictures, or (width, height), pixels.
        split: which cut-outs and photographs may be used.
        seed: of everything random.
    """

    def __init__(
        self,
        pack: Path | str,
        size: int | tuple[int, int] = 256,
        split: Split | str = Split.TRAIN,
        seed: int | Sequence[int] = 0,
    ) -> None:
        self.pack = Pack.open(Path(pack), Split(split))
        self.width, self.height = (size, size) if isinstance(size, int) else size
        self._side = min(self.width, self.height)
        self._rng = np.random.default_rng(seed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id."""
        return self.pack.class_names

    def scene(self) -> Scene:
        """One to eight labelled objects, some clutter, partly hidden and cut off."""
        canvas = draw_background(self._rng, self.pack, self.width, self.height)
        layers = Layers(self.width, self.height)
        for class_id, length in self._plan():
            self._place(canvas, layers, class_id, length)
        return self._finished(canvas, layers)

    def single(self, class_id: int | None = None) -> tuple[NDArray[np.uint8], int]:
        """One labelled object that fills a third or more of the picture: (image, class id)."""
        rng = self._rng
        if class_id is None:
            class_id = int(rng.choice(self.pack.class_ids))
        canvas = draw_background(rng, self.pack, self.width, self.height)
        for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.35 else 0):
            image = self._clutter(self._side * rng.uniform(0.12, 0.35))
            x, y = (int(rng.uniform(-0.3, 0.95) * side) for side in (self.width, self.height))
            paste(rng, canvas, image, x, y)
        length = self._side * math.exp(rng.uniform(math.log(0.35), math.log(1.15)))
        image = warp(rng, self.pack.pick_sprite(rng, class_id), length)
        # now and then a second copy
        for _ in range(2 if rng.random() < 0.12 else 1):
            x = int((self.width - image.width) / 2 + rng.normal(0, 0.12) * self._side)
            y = int((self.height - image.height) / 2 + rng.normal(0, 0.12) * self._side)
            paste(rng, canvas, image, x, y)
        return photograph(rng, canvas), class_id

    def _plan(self) -> list[tuple[int, float]]:
        """(class id, length) of what to paste, roughly from large to small."""
        rng = self._rng
        count = min(int(1 + rng.geometric(0.33)), MAX_OBJECTS) if rng.random() < 0.8 else 1
        wanted = [int(rng.choice(self.pack.class_ids)) for _ in range(count)]
        if rng.random() < 0.5:
            wanted += [CLUTTER] * int(rng.integers(0, 3))
        if count == 1:
            low, high = 0.30, 0.95
        else:
            low, high = (0.13, 0.72) if count <= 3 else (0.10, 0.50)
        plan = []
        for class_id in wanted:
            length = math.exp(rng.uniform(math.log(low), math.log(high))) * self._side
            if class_id == CLUTTER:
                length = min(length, 0.3 * self._side)
            plan.append((class_id, length))
        # mostly, but not always, small things lie in front of large ones
        return sorted(plan, key=lambda entry: -entry[1] * rng.uniform(0.7, 1.4))

    def _place(
        self, canvas: NDArray[np.float32], layers: Layers, class_id: int, length: float
    ) -> None:
        rng = self._rng
        if class_id == CLUTTER:
            image, source = self._clutter(length), ""
        else:
            sprite = self.pack.pick_sprite(rng, class_id)
            image, source = warp(rng, sprite, length), sprite.source
        full = int((np.asarray(image.getchannel("A")) > 127).sum())
        for _ in range(_TRIES):
            span = 1 - _OUTSIDE
            x = int(rng.uniform(-_OUTSIDE * image.width, self.width - span * image.width))
            y = int(rng.uniform(-_OUTSIDE * image.height, self.height - span * image.height))
            place = footprint(image, x, y, canvas)
            if place is None or not layers.admits(place):
                continue
            paste(rng, canvas, image, x, y)
            layers.cover(place)
            if class_id != CLUTTER and full:
                layers.add(place, class_id, full, source)
            return

    def _clutter(self, length: float) -> Image.Image:
        image = warp(self._rng, self.pack.pick_sprite(self._rng, CLUTTER), length)
        if self._rng.random() < 0.4:
            return masquerade(self._rng, self.pack, image)
        return image

    def _finished(self, canvas: NDArray[np.float32], layers: Layers) -> Scene:
        kept = layers.visible_objects()
        masks = np.zeros((len(kept), self.height, self.width), np.bool_)
        semantic = np.zeros((self.height, self.width), np.uint8)
        boxes = np.zeros((len(kept), 4), np.float32)
        for i, item in enumerate(kept):
            masks[i] = item.mask
            rows, columns = np.nonzero(item.mask.any(1))[0], np.nonzero(item.mask.any(0))[0]
            boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            semantic[item.mask] = item.class_id + 1
        return Scene(
            image=photograph(self._rng, canvas),
            boxes=boxes,
            labels=np.array([item.class_id for item in kept], np.int64),
            masks=masks,
            semantic=semantic,
            visible=np.array([item.visible for item in kept], np.float32),
            sources=tuple(item.source for item in kept),
        )
