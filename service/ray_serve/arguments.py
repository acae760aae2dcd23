"""What an operator says about a deployment on a Ray cluster: the `args` of `serve_config.yaml`."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from service.settings import Settings, SettingsError, given_settings


class Placement(BaseModel):
    """How many replicas there are, and what each one gets of a machine.

    Attributes:
        num_gpus: of one replica; 0: it computes on the CPU. Less than 1 shares a GPU.
        num_cpus: of one replica, which Ray sets aside: threads that decode, and on a CPU compute.
        min_replicas: at any time.
        max_replicas: under load; the same as `min_replicas`: no autoscaling.
        target_ongoing_requests: of one replica, accepted and not yet answered; Ray adds replicas
            above it and takes them away below. None: the images of a full batch.
        upscale_delay_s: the load must have been higher for so long.
        downscale_delay_s: the load must have been lower for so long.
        max_surge_percent: replicas that an update may have beyond the target, each with a GPU of
            its own; 0: it stops old ones before it starts new ones.
        version: any text. `serve deploy` replaces all replicas when anything in `args` has changed;
            this is for model files that have changed under their old names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_gpus: NonNegativeFloat = 0.0
    num_cpus: PositiveFloat = 1.0
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 1
    target_ongoing_requests: PositiveFloat | None = None
    upscale_delay_s: NonNegativeFloat = 10.0
    downscale_delay_s: NonNegativeFloat = 300.0
    max_surge_percent: Annotated[int, Field(ge=0, le=100)] = 20
    version: str = ""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}, at least min_replicas = {self.min_replicas}"
            )
        return self

    @property
    def device(self) -> str:
        """Where a replica computes."""
        return "cuda:0" if self.num_gpus else "cpu"


def placement_from(values: Mapping[str, Any]) -> Placement:
    """Checked values.

    Raises:
        SettingsError: unknown names or bad values, one per line.
    """
    try:
        return Placement(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as exc:
        lines = [
            ".".join(map(str, one["loc"])) + f": {one['msg']}" if one["loc"] else one["msg"]
            for one in exc.errors()
        ]
        raise SettingsError("\n".join(lines)) from exc


def parse_arguments(arguments: Mapping[str, Any]) -> tuple[Placement, Settings]:
    """The `args` of an application: the fields of `Placement`, and `settings`.

    Raises:
        SettingsError: unknown names or bad values, one per line.
    """
    settings = arguments.get("settings") or {}
    if not isinstance(settings, Mapping):
        raise SettingsError("settings: must be a mapping of setting names to values")
    rest = {name: value for name, value in arguments.items() if name != "settings"}
    return placement_from(rest), given_settings(settings)


def replica_settings(settings: Settings, placement: Placement) -> Settings:
    """Settings of the one process that a replica is.

    Raises:
        SettingsError: something is asked for that Ray takes care of.
    """
    if settings.frontends not in ("auto", 0):
        raise SettingsError("frontends: a replica is one process; ask for more replicas instead")
    if settings.admin.port is not None:
        raise SettingsError("admin.port: replicas have none; deploy a new version instead")
    if placement.num_gpus and settings.device == "cpu":
        raise SettingsError("device: is cpu, but num_gpus asks for a GPU")
    if not placement.num_gpus and settings.device == "cuda":
        raise SettingsError("device: is cuda, but num_gpus is 0")
    # never a quiet fallback: a replica that was promised a GPU must find it
    device = "cuda" if placement.num_gpus else "cpu"
    if settings.backend == "stub":
        device = settings.device
    pool_size = settings.pool_size or math.ceil(placement.num_cpus)
    return settings.model_copy(update={"frontends": 0, "device": device, "pool_size": pool_size})
