"""Deterministic answers without a network: for tests and load tests of the service itself."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.config import InputConfig, ModelSpec, TaskName
from model.results import (
    Classification,
    Detections,
    DetectParams,
    Params,
    Result,
    Rle,
    Segmentation,
)
from service.backends.base import Finishing, HeldBatch
from service.engine.device import DeviceCrash, DeviceOutOfMemoryError
from service.setting_groups import StubSettings

_CLASSES: Final = ("dark", "red", "green", "blue", "light")
_DETECT_INPUT: Final = InputConfig(short=256, long=512, pad_multiple=32)
_INPUTS: Final = {
    TaskName.CLASSIFY: InputConfig(short=256, crop=224),
    TaskName.DETECT: _DETECT_INPUT,
    TaskName.SEGMENT: InputConfig(short=256, long=512),
}
# (score, left, top, right, bottom) as fractions of the picture
_OBJECTS: Final = (
    (0.9, 0.10, 0.20, 0.50, 0.80),
    (0.6, 0.55, 0.30, 0.95, 0.90),
    (0.2, 0.30, 0.00, 0.70, 0.25),
)


class StubFaultError(RuntimeError):
    """The fault that was asked for."""


@dataclass(frozen=True, slots=True)
class StubPrepared:
    """What is left of a picture.

    Attributes:
        shape: height and width a network's input would have.
        original_hw: of the upright picture, pixels.
        mean_rgb: mean colour, 0..255.
    """

    shape: tuple[int, int]
    original_hw: tuple[int, int]
    mean_rgb: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class StubRaw:
    mean_rgb: tuple[float, float, float]
    params: Params


class StubBackend:
    """Answers by the mean colour of the picture, after a chosen time, with chosen faults."""

    kind = "stub"
    device = "cpu"
    dtype = "uint8"
    sha256: str | None = None
    prepares_at_once = True

    def __init__(self, task: TaskName, settings: StubSettings) -> None:
        names = ("background", *_CLASSES) if task is TaskName.SEGMENT else _CLASSES
        self.spec = ModelSpec(
            name=f"stub-{task.value}",
            task=task,
            variant="demo",
            class_names=names,
            input=_INPUTS[task],
            demo=True,
        )
        is_small = task is TaskName.CLASSIFY
        self.finishing = Finishing.AT_ONCE if is_small else Finishing.SPREAD
        self._settings = settings
        self.num_batches = 0
        self._leaked: list[bytes] = []

    def prepare(self, rgb: NDArray[np.uint8]) -> StubPrepared:
        height, width = rgb.shape[:2]
        thumbnail = rgb[:: max(1, height // 32), :: max(1, width // 32)].reshape(-1, 3)
        red, green, blue = (float(value) for value in thumbnail.mean(axis=0))
        return StubPrepared(self._shape(height, width), (height, width), (red, green, blue))

    def _shape(self, height: int, width: int) -> tuple[int, int]:
        config = self.spec.input
        if config.crop is not None:
            return config.crop, config.crop
        long = config.long or config.short
        scale = min(config.short / min(height, width), long / max(height, width))
        sides = (max(1, round(side * scale)) for side in (height, width))
        multiple = config.pad_multiple
        padded = tuple(-(-side // multiple) * multiple for side in sides)
        return padded[0], padded[1]

    def stage(self, batch: Sequence[StubPrepared], params: Sequence[Params]) -> HeldBatch:
        return HeldBatch(batch, params)

    def infer(self, staged: HeldBatch) -> list[StubRaw]:
        self.num_batches += 1
        self._fail_if_chosen(staged.images)
        if self._settings.leak_bytes:
            self._leaked += [b"\1" * self._settings.leak_bytes for _ in staged.images]
        return [
            StubRaw(image.mean_rgb, one)
            for image, one in zip(staged.images, staged.params, strict=True)
        ]

    def _fail_if_chosen(self, batch: Sequence[StubPrepared]) -> None:
        settings = self._settings
        if settings.memory_images and len(batch) > settings.memory_images:
            raise DeviceOutOfMemoryError(f"no memory for more than {settings.memory_images} images")
        # the first batch is the warm-up, which nobody waits for
        if self.num_batches > 1:
            time.sleep((settings.batch_ms + settings.image_ms * len(batch)) / 1000)
        if settings.hang_after_batches and self.num_batches > settings.hang_after_batches:
            threading.Event().wait()
        if settings.crash_after_batches and self.num_batches > settings.crash_after_batches:
            raise DeviceCrash("crash after the chosen number of batches")
        if settings.poison_width and any(
            image.original_hw[1] == settings.poison_width for image in batch
        ):
            raise StubFaultError(f"a picture of width {settings.poison_width} is in the batch")

    def finish(self, raw: StubRaw, prepared: StubPrepared) -> Result:
        height, width = prepared.original_hw
        if self.spec.task is TaskName.CLASSIFY:
            return Classification(_probabilities(raw.mean_rgb))
        if self.spec.task is TaskName.SEGMENT:
            return Segmentation(_stripes(height, width, self.spec.num_classes))
        if not isinstance(raw.params, DetectParams):
            raise TypeError(f"expected DetectParams, got {type(raw.params).__name__}")
        first_class = int(_probabilities(raw.mean_rgb).argmax())
        return _objects(height, width, first_class, raw.params)


def _probabilities(mean_rgb: tuple[float, float, float]) -> NDArray[np.float32]:
    red, green, blue = mean_rgb
    light = min(mean_rgb)
    logits = np.array([128 - max(mean_rgb), red - light, green - light, blue - light, light - 128])
    exponentials = np.exp((logits - logits.max()) / 32)
    probabilities: NDArray[np.float32] = (exponentials / exponentials.sum()).astype(np.float32)
    return probabilities


def _stripes(height: int, width: int, num_classes: int) -> NDArray[np.uint8]:
    columns = (np.arange(width) * num_classes // width).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(columns, (height, width)))


def _objects(height: int, width: int, first_class: int, params: DetectParams) -> Detections:
    kept = [one for one in _OBJECTS if one[0] > params.score_threshold][: params.max_detections]
    scale = np.array([width, height, width, height])
    boxes = np.array([one[1:] for one in kept], dtype=np.float32).reshape(-1, 4) * scale
    classes = [(first_class + index) % len(_CLASSES) for index in range(len(kept))]
    masks = tuple(_diamond(box, height, width) for box in boxes) if params.with_masks else None
    return Detections(
        boxes=boxes.astype(np.float32),
        scores=np.array([one[0] for one in kept], dtype=np.float32),
        class_ids=np.array(classes, dtype=np.int64),
        masks=masks,
    )


def _diamond(box: NDArray[np.float32], height: int, width: int) -> Rle:
    left, top, right, bottom = (float(edge) for edge in box)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    outline = [left, middle_y, middle_x, top, right, middle_y, middle_x, bottom]
    encoded = coco_mask.frPyObjects([outline], height, width)[0]
    return Rle(height, width, encoded["counts"].decode("ascii"))
