"""Options with a fixed set of values."""

from enum import StrEnum


class Device(StrEnum):
    """Where networks run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class BackendName(StrEnum):
    """What runs networks; names of `service.settings.Settings.backend`."""

    AUTO = "auto"
    TORCH = "torch"
    TRITON = "triton"


class LogLevel(StrEnum):
    """Names of `service.settings.LogSettings.level`."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Names of `service.settings.LogSettings.format`."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class Masks(StrEnum):
    """Names of `service.answers.MaskForm`."""

    RLE = "rle"
    POLYGON = "polygon"
    PNG = "png"
    NONE = "none"
