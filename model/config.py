"""What a model is: architecture rows, input pipeline, and the facts stored inside a model file.

Nothing here is an operator's choice; those live in `service.settings`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final


class TaskName(StrEnum):
    """The three tasks; the value is the name used in routes, files and metrics."""

    CLASSIFY = "classify"
    DETECT = "detect"
    SEGMENT = "segment"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """Widths and depths of the four stages.

    Values of the published rows: `configs/spatialmamba_{t,s,b}.yaml` of the authors' code.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    state_dim: int = 1
    ssm_expansion: int = 2
    mlp_ratio: int = 4
    norm_eps: float = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Widths of the task heads; the defaults are those of the published models."""

    fpn_channels: int = 256
    box_fc_channels: int = 1024
    mask_convs: int = 4
    upernet_channels: int = 512
    auxiliary_channels: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One row of the table of model sizes."""

    backbone: BackboneConfig
    heads: HeadConfig = field(default_factory=HeadConfig)


VARIANTS: Final[Mapping[str, Variant]] = MappingProxyType(
    {
        "tiny": Variant(backbone=BackboneConfig(dims=(64, 128, 256, 512), depths=(2, 4, 8, 4))),
        "small": Variant(backbone=BackboneConfig(dims=(64, 128, 256, 512), depths=(2, 4, 21, 5))),
        "base": Variant(backbone=BackboneConfig(dims=(96, 192, 384, 768), depths=(2, 4, 21, 5))),
        "demo": Variant(
            backbone=BackboneConfig(dims=(32, 64, 128, 256), depths=(1, 2, 4, 2)),
            heads=HeadConfig(
                fpn_channels=96,
                box_fc_channels=256,
                mask_convs=2,
                upernet_channels=96,
                auxiliary_channels=64,
            ),
        ),
    }
)


def variant(name: str) -> Variant:
    """The row called `name`.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}, known: {', '.join(VARIANTS)}")
    return VARIANTS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputConfig:
    """How a photograph becomes the network's input.

    Attributes:
        short: target length of the shorter side, pixels.
        long: upper limit of the longer side, pixels; None: no limit (classification).
        crop: side of the square centre crop, pixels; None: no crop.
        pad_multiple: zero padding to a multiple of this, right and bottom, after normalisation.
        mean: per RGB channel, in 0..255 units.
        std: per RGB channel, in 0..255 units.
    """

    short: int
    long: int | None = None
    crop: int | None = None
    pad_multiple: int = 1
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)


PUBLISHED_INPUTS: Final[Mapping[TaskName, InputConfig]] = MappingProxyType(
    {
        TaskName.CLASSIFY: InputConfig(short=256, crop=224),
        TaskName.DETECT: InputConfig(short=800, long=1333, pad_multiple=32),
        TaskName.SEGMENT: InputConfig(short=512, long=2048),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything a model file says about itself; travels in the file's metadata.

    Attributes:
        name: what clients put into `?model=`, e.g. `spatial-mamba-tiny-classify`.
        source_sha256: of the checkpoint it was converted from; None for models trained here.
        demo: true for the small models that ship with the project; repeated in every answer.
    """

    name: str
    task: TaskName
    variant: str
    class_names: tuple[str, ...]
    input: InputConfig
    source_sha256: str | None = None
    demo: bool = False

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def to_json(self) -> str:
        """JSON object, the inverse of `from_json`."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Read what `to_json` wrote.

        Raises:
            ValueError: not such an object; the message names the trouble.
        """
        try:
            return _spec_from_dict(json.loads(text))
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"model metadata is not a model spec: {exc}") from exc


def _spec_from_dict(raw: dict[str, Any]) -> ModelSpec:
    fields = dict(raw)
    fields["task"] = TaskName(fields["task"])
    fields["class_names"] = tuple(str(name) for name in fields["class_names"])
    inputs = dict(fields["input"])
    inputs["mean"] = tuple(inputs["mean"])
    inputs["std"] = tuple(inputs["std"])
    fields["input"] = InputConfig(**inputs)
    spec = ModelSpec(**fields)
    variant(spec.variant)
    return spec
