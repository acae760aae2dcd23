"""The protocol's objects as the OpenAPI page shows them. Not used to build infer answers."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ServerLive(_Schema):
    live: Literal[True] = True


class ServerReady(_Schema):
    """`live` is how the published text names it, `ready` how everybody reads it."""

    live: Literal[True] = True
    ready: Literal[True] = True


class ModelReady(_Schema):
    name: str
    ready: Literal[True] = True


class ServerMetadata(_Schema):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Schema):
    """A dimension of -1 may have any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(_Schema):
    """Of the inputs one is to be sent: `image` or `pixels`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelStatistics(_Schema):
    """`inference_count`: pictures answered; `execution_count`: runs of the device."""

    name: str
    version: str
    inference_count: int
    execution_count: int


class StatisticsList(_Schema):
    model_stats: list[ModelStatistics]


class IndexEntry(_Schema):
    name: str
    version: str
    state: Literal["READY"]
    reason: str


class ResponseOutput(_Schema):
    """`data` in JSON, or `binary_data_size` bytes after it."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float | str] | None = None
    parameters: dict[str, Any] | None = None


class InferResponse(_Schema):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]
