"""Every choice of the operator, in one frozen object.

Built once by the command line and passed down; no other module reads the environment.
Priority: command line > environment (`SMSERVE_*`) > YAML file > default.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

ENV_PREFIX: Final = "SMSERVE_"
_ENVIRON: Final = os.environ  # noqa: TID251 - the one place that reads it


class SettingsError(ValueError):
    """Settings that cannot be used; the message names each one, a line each."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _split_list(value: Any) -> Any:
    """`a,b` or a JSON list, as environment variables hold them; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        return json.loads(text)
    return tuple(part.strip() for part in text.split(",") if part.strip())


class LimitSettings(_Section):
    """What is refused before any work is done on it.

    Attributes:
        max_body_bytes: of one request.
        max_pixels: width x height of one picture, from its header.
        max_side: of one picture, pixels.
        max_images_per_request: files of one multipart body.
        max_part_header_bytes: of one header line of a multipart part.
    """

    max_body_bytes: PositiveInt = 32 * 1024 * 1024
    max_pixels: PositiveInt = 50_000_000
    max_side: PositiveInt = 16_384
    max_images_per_request: PositiveInt = 32
    max_part_header_bytes: PositiveInt = 4096


class BatchSettings(_Section):
    """How images of one shape share a run of the device.

    Attributes:
        max_images: in one batch; None: by device, see `service.capacity`.
        max_pixels: sum over one batch, at the network's input size; a single larger image runs
            alone. None: by device.
        max_delay_ms: wait this long for more images when the device is free.
        max_age_ms: an image that waited longer goes before larger batches of other shapes.
    """

    max_images: PositiveInt | None = None
    max_pixels: PositiveInt | None = None
    max_delay_ms: NonNegativeFloat = 0.0
    max_age_ms: NonNegativeFloat = 500.0


class QueueSettings(_Section):
    """How much work may be held before new work is refused with 429.

    Attributes:
        max_images: accepted and not yet answered; None: by device, see `service.capacity`.
        max_pixels: waiting for the device, at the network's input size (at most 12 bytes each);
            None: by device.
        max_source_pixels: accepted and not yet answered, at the size of the pictures. Where the
            GPU resizes (`gpu.preprocessing` is `fast`) they may all be held decoded, 3 bytes each.
        max_decode_pixels: being decoded and prepared at one time (3 bytes each); further pictures
            wait.
        max_bytes: request bodies held in memory.
    """

    max_images: PositiveInt | None = None
    max_pixels: PositiveInt | None = None
    max_source_pixels: PositiveInt = 800_000_000
    max_decode_pixels: PositiveInt = 100_000_000
    max_bytes: PositiveInt = 256 * 1024 * 1024


class TimeoutSettings(_Section):
    """How long things may take.

    Attributes:
        request_ms: from the last byte of the body to the answer, unless the client asks otherwise.
        max_request_ms: the most a client can ask for.
        body_ms: from the first byte of a request to the last byte of its body.
        keep_alive_s: an idle connection is closed after this; must exceed that of a proxy.
        heartbeat_s: a device thread silent for longer makes `/livez` fail.
    """

    request_ms: PositiveInt = 30_000
    max_request_ms: PositiveInt = 300_000
    body_ms: PositiveInt = 60_000
    keep_alive_s: PositiveInt = 75
    heartbeat_s: PositiveFloat = 300.0

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.request_ms > self.max_request_ms:
            raise ValueError(
                f"request_ms is {self.request_ms}, at most max_request_ms = {self.max_request_ms}"
            )
        return self


class ShutdownSettings(_Section):
    """What happens between SIGTERM and the end.

    Attributes:
        grace_s: not ready, but still accepting, while load balancers notice.
        drain_timeout_s: then new work is refused and accepted work may take this long.
    """

    grace_s: NonNegativeFloat = 5.0
    drain_timeout_s: PositiveFloat = 30.0


class ThresholdSettings(_Section):
    """Used where a request names none; the defaults are those of the published models."""

    score: float = Field(default=0.05, ge=0.0, le=1.0)
    nms_iou: float = Field(default=0.5, ge=0.0, le=1.0)
    max_detections: int = Field(default=100, ge=1, le=300)


class LogSettings(_Section):
    """What is written to standard error.

    Attributes:
        level: of the service's own records.
        format: `json` is one object a line, `text` is for people; `auto` takes text on a terminal.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class GpuSettings(_Section):
    """How the `triton` backend computes; nothing of this concerns a CPU.

    Attributes:
        precision: of weights and activations; sums are kept in float32.
        preprocessing: `fast` resizes on the GPU; `exact` runs the CPU's pipeline, bit for bit.
        max_graphs: CUDA graphs a model keeps, one per batch size and input shape; the one used
            longest ago goes first. Each one costs GPU memory.
        warm_up_batches: sizes of batches, made ready before the first request. A batch that is cut
            short by `batch.max_images` or `batch.max_pixels` gets the largest of them that fits;
            a smaller batch is filled up to the next one.
    """

    precision: Literal["float16", "bfloat16"] = "float16"
    preprocessing: Literal["fast", "exact"] = "fast"
    max_graphs: PositiveInt = 64
    warm_up_batches: Annotated[tuple[PositiveInt, ...], NoDecode, Field(min_length=1)] = (
        1, 2, 4, 8, 16, 32, 64, 128,
    )  # fmt: skip

    @field_validator("warm_up_batches", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _split_list(value)

    @field_validator("warm_up_batches", mode="after")
    @classmethod
    def _sort(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))


class StubSettings(_Section):
    """The backend without a network, for load tests of the service itself.

    Attributes:
        batch_ms: every batch takes this long, apart from the warm-up.
        image_ms: and this much more per image.
        poison_width: pictures of this width make their batch fail; 0: none.
        crash_after_batches: the device thread dies after this many batches; 0: never.
    """

    batch_ms: NonNegativeFloat = 0.0
    image_ms: NonNegativeFloat = 0.0
    poison_width: NonNegativeInt = 0
    crash_after_batches: NonNegativeInt = 0


class Settings(BaseSettings):
    """Process configuration.

    Attributes:
        config: YAML file with the same fields, also `SMSERVE_CONFIG`.
        models_dir: every `*.safetensors` in it is served, before the demo models.
        demo_models: serve the models that ship with the project.
        backend: `triton` runs the models compiled for a GPU, `torch` as PyTorch does anywhere;
            `auto` takes `triton` on a GPU and `torch` on the CPU; `stub` invents deterministic
            answers.
        device: `auto` takes the GPU if there is one.
        torch_threads: CPU threads of the network; None: torch decides.
        pool_size: threads that decode and post-process; None: one per core.
        api_keys: if any, task routes need one (`Authorization: Bearer` or `X-API-Key`).
        cors_origins: browser origins that may call; none by default.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    config: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    models_dir: Path | None = None
    demo_models: bool = True
    backend: Literal["auto", "torch", "triton", "stub"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    torch_threads: PositiveInt | None = None
    pool_size: PositiveInt | None = None
    limits: LimitSettings = LimitSettings()
    gpu: GpuSettings = GpuSettings()
    batch: BatchSettings = BatchSettings()
    queue: QueueSettings = QueueSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    thresholds: ThresholdSettings = ThresholdSettings()
    log: LogSettings = LogSettings()
    stub: StubSettings = StubSettings()
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _split_list(value)

    @field_validator("api_keys", mode="after")
    @classmethod
    def _refuse_weak_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < 8 for key in keys):
            raise ValueError("an API key needs at least 8 characters")
        return keys

    @model_validator(mode="after")
    def _check_memory_limits(self) -> Self:
        if self.queue.max_bytes < self.limits.max_body_bytes:
            raise ValueError(
                f"queue.max_bytes is {self.queue.max_bytes}, at least limits.max_body_bytes = "
                f"{self.limits.max_body_bytes} is needed"
            )
        return self

    @model_validator(mode="after")
    def _refuse_unknown_variables(self) -> Self:
        # extra="forbid" sees unknown nested names but not unknown top-level variables
        known = {f"{ENV_PREFIX}{name}".upper() for name in type(self).model_fields}
        unknown = sorted(
            name
            for name in _ENVIRON
            if name.upper().startswith(ENV_PREFIX) and name.upper().split("__")[0] not in known
        )
        if unknown:
            raise ValueError(f"unknown environment variables: {', '.join(unknown)}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = init_settings().get("config") or _ENVIRON.get(f"{ENV_PREFIX}CONFIG")
        if path is None:
            return (init_settings, env_settings)
        return (init_settings, env_settings, _yaml_source(settings_cls, Path(path)))


def _yaml_source(settings_cls: type[BaseSettings], path: Path) -> InitSettingsSource:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise SettingsError(f"cannot read the configuration file {path}: {exc}") from exc
    if content is None:
        content = {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SettingsError(f"{path} must hold a mapping of setting names to values")
    if "config" in content:
        raise SettingsError(f"{path}: a configuration file cannot name another one")
    return InitSettingsSource(settings_cls, init_kwargs=content)


def load_settings(**overrides: Any) -> Settings:
    """Settings from all sources.

    Args:
        overrides: fields of `Settings` chosen on the command line; those that are None are left to
            the other sources, nested ones are dicts, e.g. `batch={"max_images": 4}`.

    Raises:
        SettingsError: unreadable file, unknown names or bad values, one per line.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as exc:
        lines = [_error_line(error["loc"], error["type"], error["msg"]) for error in exc.errors()]
        raise SettingsError("\n".join(lines)) from exc


def _error_line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        variable = f"{ENV_PREFIX}{'__'.join(str(part) for part in location)}".upper()
        return f"unknown setting {name} ({variable})"
    return f"{name}: {message}" if name else message.removeprefix("Value error, ")


def effective_settings(settings: Settings) -> dict[str, Any]:
    """All settings as plain JSON types, secrets replaced by asterisks."""
    return settings.model_dump(mode="json")
