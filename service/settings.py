"""Every choice of the operator, in one frozen object.

Built once by the command line and passed down; no other module reads the environment.
Priority: command line > environment (`SMSERVE_*`) > YAML file > default.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    Field,
    NonNegativeInt,
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

from service.setting_groups import (
    AdminSettings,
    BatchSettings,
    GpuSettings,
    LimitSettings,
    LogSettings,
    ProcessSettings,
    QueueSettings,
    ShutdownSettings,
    StubSettings,
    ThresholdSettings,
    TimeoutSettings,
    TracingSettings,
    split_list,
)

ENV_PREFIX: Final = "SMSERVE_"
_ENVIRON: Final = os.environ  # noqa: TID251 - the one place that reads it


class SettingsError(ValueError):
    """Settings that cannot be used; the message names each one, a line each."""


class Settings(BaseSettings):
    """Process configuration.

    Attributes:
        config: YAML file with the same fields.
        host: address to listen on; the default is reachable from this machine only.
        port: to listen on; 0: any free one, which the log names.
        models_dir: every `*.safetensors` in it is served, before the demo models.
        demo_models: serve the models that ship with the project.
        backend: `triton` runs the models compiled for a GPU, `torch` as PyTorch does anywhere;
            `auto` takes `triton` on a GPU and `torch` on the CPU; `stub` invents deterministic
            answers.
        device: `auto` takes the GPU if there is one.
        frontends: processes that speak HTTP; 0: one process does everything. `auto`: 0 on a CPU,
            with a GPU three quarters of the cores, at most 32.
        model_hashes: `if_present` compares each model file with the `.sha256` file beside it, if
            there is one; `required` refuses a model without.
        torch_threads: CPU threads of the network; None: torch decides, within what a
            container is granted.
        pool_size: threads that decode and post-process, in each process; None: one per core, two in
            a front end.
        api_keys: if any, task routes need one (`Authorization: Bearer` or `X-API-Key`); of at least
            8 characters each.
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
    frontends: Literal["auto"] | NonNegativeInt = "auto"
    model_hashes: Literal["if_present", "required"] = "if_present"
    torch_threads: PositiveInt | None = None
    pool_size: PositiveInt | None = None
    limits: LimitSettings = LimitSettings()
    gpu: GpuSettings = GpuSettings()
    batch: BatchSettings = BatchSettings()
    queue: QueueSettings = QueueSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    processes: ProcessSettings = ProcessSettings()
    admin: AdminSettings = AdminSettings()
    tracing: TracingSettings = TracingSettings()
    thresholds: ThresholdSettings = ThresholdSettings()
    log: LogSettings = LogSettings()
    stub: StubSettings = StubSettings()
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_list(value)

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


class _GivenSettings(Settings):
    """Without the environment, which on a machine of a cluster is nobody's choice."""

    @model_validator(mode="after")
    def _refuse_unknown_variables(self) -> Self:
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
        path = init_settings().get("config")
        if path is None:
            return (init_settings,)
        return (init_settings, _yaml_source(settings_cls, Path(path)))


def load_settings(**overrides: Any) -> Settings:
    """Settings from all sources.

    Args:
        overrides: fields of `Settings` chosen on the command line; those that are None are left to
            the other sources, nested ones are dicts, e.g. `batch={"max_images": 4}`.

    Raises:
        SettingsError: unreadable file, unknown names or bad values, one per line.
    """
    return _validated(Settings, overrides)


def given_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from these values alone, and from the file that they name as `config`.

    Raises:
        SettingsError: unreadable file, unknown names or bad values, one per line.
    """
    return _validated(_GivenSettings, values)


def _validated(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    try:
        return kind(**{name: value for name, value in values.items() if value is not None})
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
