"""The seam between the front end, which speaks HTTP, and the engine, which owns the device."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.config import ModelSpec
from model.results import Params, Result

# an encoded file, or upright RGB pixels: (H, W, 3) uint8, contiguous, never written to
Picture = bytes | NDArray[np.uint8]


class Priority(IntEnum):
    """Whose images go first; the lower number does."""

    HIGH = 1
    NORMAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One image for one model.

    Attributes:
        model: name of a served model.
        image: as it came, encoded or as pixels; both take the same way.
        params: of the model's task.
        deadline: `time.monotonic()` seconds; later the answer is worth nothing.
        client: whose share of the queue it uses, a digest of the API key; empty without keys.
        is_alone: the only image of its request.
    """

    model: str
    image: Picture
    params: Params
    deadline: float
    priority: Priority = Priority.NORMAL
    client: str = ""
    is_alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a job.

    Attributes:
        height: of the upright original image, pixels.
        width: of the upright original image, pixels.
        stage_seconds: decode, queue, infer, postprocess.
        batch_size: images that shared the run of the device.
    """

    result: Result
    height: int
    width: int
    stage_seconds: Mapping[str, float]
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that answers.

    Attributes:
        backend: `torch`, `triton` or `stub`.
        device: where it computes, e.g. `cpu` or `cuda:0`.
        dtype: of the computation.
        sha256: of the model file, hexadecimal; None when there is no file.
        is_default: answers requests for its task that name no model.
    """

    spec: ModelSpec
    backend: str
    device: str
    dtype: str
    sha256: str | None
    is_default: bool


class EngineState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """How the engine is.

    Attributes:
        heartbeat_age_s: since the device thread last showed itself.
        detail: for people; the progress of the start, the reason of a failure.
    """

    state: EngineState
    heartbeat_age_s: float
    detail: str


class Engine(Protocol):
    """Runs models on a device. All methods belong to the event loop."""

    async def start(self) -> None:
        """Load, verify and warm every model; returns when ready.

        Raises:
            Exception: whatever made a model unusable; the state is then FAILED.
        """
        ...

    async def predict(self, job: Job) -> Outcome:
        """Answer one image; cancelling the call drops the work.

        Raises:
            ServiceError: refused, failed, or too late.
            ImageDecodeError: and its siblings of `model.images`.
        """
        ...

    def models(self) -> tuple[ServedModel, ...]:
        """Models that answer; empty before `start` has finished."""
        ...

    def status(self) -> EngineStatus: ...

    async def stop(self, *, timeout_s: float) -> None:
        """Refuse new work, finish accepted work for at most `timeout_s`, fail the rest."""
        ...
