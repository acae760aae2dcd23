"""The groups of settings; `service.settings` puts them together."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def split_list(value: Any) -> Any:
    """`a,b` or a JSON list, as environment variables hold them; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        return json.loads(text)
    return tuple(part.strip() for part in text.split(",") if part.strip())


class LimitSettings(Section):
    """What is refused before any work is done on it.

    Attributes:
        max_body_bytes: of one request.
        max_pixels: width x height of one picture, from its header.
        max_side: of one picture, pixels.
        max_images_per_request: files of one multipart body, pictures of one tensor.
        max_part_header_bytes: of one header line of a multipart part.
    """

    max_body_bytes: PositiveInt = 32 * 1024 * 1024
    max_pixels: PositiveInt = 50_000_000
    max_side: PositiveInt = 16_384
    max_images_per_request: PositiveInt = 32
    max_part_header_bytes: PositiveInt = 4096


class BatchSettings(Section):
    """How images of one shape share a run of the device.

    Attributes:
        max_images: in one batch; None: by device.
        max_pixels: sum over one batch, at the network's input size; a single larger image runs
            alone. None: by device.
        max_delay_ms: wait this long for more images when the device is free.
        max_age_ms: an image that waited longer goes before larger batches of other shapes.
    """

    max_images: PositiveInt | None = None
    max_pixels: PositiveInt | None = None
    max_delay_ms: NonNegativeFloat = 0.0
    max_age_ms: NonNegativeFloat = 500.0


class QueueSettings(Section):
    """How much work may be held before new work is refused with 429.

    Attributes:
        max_images: accepted and not yet answered; None: by device.
        max_pixels: waiting for the device, at the network's input size (at most 12 bytes each);
            None: by device.
        max_source_pixels: accepted and not yet answered, at the size of the pictures. Where the
            GPU resizes (`gpu.preprocessing` is `fast`) they may all be held decoded, 3 bytes each.
        max_decode_pixels: being decoded and prepared at one time (3 bytes each); further pictures
            wait.
        max_bytes: request bodies held in memory; at least `limits.max_body_bytes`.
        max_images_per_key: accepted and not yet answered, of one API key; None: no such limit. Of
            several engines each one counts its own share.
    """

    max_images: PositiveInt | None = None
    max_pixels: PositiveInt | None = None
    max_source_pixels: PositiveInt = 800_000_000
    max_decode_pixels: PositiveInt = 100_000_000
    max_bytes: PositiveInt = 256 * 1024 * 1024
    max_images_per_key: PositiveInt | None = None


class TimeoutSettings(Section):
    """How long things may take.

    Attributes:
        request_ms: from the last byte of the body to the answer, unless the client asks otherwise;
            at most `max_request_ms`.
        max_request_ms: the most a client can ask for.
        body_ms: from the first byte of a request to the last byte of its body.
        keep_alive_s: an idle connection is closed after this; must exceed that of a proxy.
        send_ms: an answer whose client takes none of it for so long is cut off.
        heartbeat_s: a device thread silent for longer makes `/livez` fail; an engine process is
            then replaced.
    """

    request_ms: PositiveInt = 30_000
    max_request_ms: PositiveInt = 300_000
    body_ms: PositiveInt = 60_000
    keep_alive_s: PositiveInt = 75
    send_ms: PositiveInt = 60_000
    heartbeat_s: PositiveFloat = 60.0

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.request_ms > self.max_request_ms:
            raise ValueError(
                f"request_ms is {self.request_ms}, at most max_request_ms = {self.max_request_ms}"
            )
        return self


class ShutdownSettings(Section):
    """What happens between SIGTERM and the end.

    Attributes:
        grace_s: not ready, but still accepting, while load balancers notice.
        drain_timeout_s: then new work is refused and accepted work may take this long.
    """

    grace_s: NonNegativeFloat = 5.0
    drain_timeout_s: PositiveFloat = 30.0


class ProcessSettings(Section):
    """The processes of a service with front ends (`frontends` is not 0).

    Attributes:
        engines: processes that compute; `auto`: two for each GPU, one where a GPU has less than
            32 GiB, one on a CPU. More than there are GPUs share them in turn.
        picture_bytes: shared memory of one front end, for the decoded pictures it has handed over;
            taken from the system only as far as it is used.
        max_restarts: of one engine or front end within `restart_window_s`; one more ends the
            service with an exit status that is not 0.
        restart_window_s: seconds.
    """

    engines: Literal["auto"] | PositiveInt = "auto"
    picture_bytes: PositiveInt = 512 * 1024 * 1024
    max_restarts: NonNegativeInt = 10
    restart_window_s: PositiveFloat = 300.0


class AdminSettings(Section):
    """The endpoint for operators; it listens on the loopback address only.

    Attributes:
        port: None: no such endpoint; 0: any free port.
    """

    port: int | None = Field(default=None, ge=0, le=65535)


class TracingSettings(Section):
    """Spans for OpenTelemetry; needs the extra `tracing`.

    Attributes:
        endpoint: of an OTLP collector that speaks HTTP, e.g. `http://127.0.0.1:4318/v1/traces`;
            None: no spans.
        sample_ratio: share of the requests without a parent span that are traced; the others
            follow their parent.
    """

    endpoint: str | None = None
    sample_ratio: float = Field(default=1.0, ge=0.0, le=1.0)


class ThresholdSettings(Section):
    """Used where a request names none; the defaults are those of the published models.

    Attributes:
        score: answers of detection below this are left out.
        nms_iou: of two boxes of one class that overlap by more, the better one stays.
        max_detections: of one picture, the best ones.
    """

    score: float = Field(default=0.05, ge=0.0, le=1.0)
    nms_iou: float = Field(default=0.5, ge=0.0, le=1.0)
    max_detections: int = Field(default=100, ge=1, le=300)


class LogSettings(Section):
    """What is written to standard error.

    Attributes:
        level: of the service's own records.
        format: `json` is one object a line, `text` is for people; `auto` takes text on a terminal.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class GpuSettings(Section):
    """How the `triton` backend computes; nothing of this concerns a CPU.

    Attributes:
        precision: of weights and activations; sums are kept in float32. `float32` is nearest to the
            CPU; each map takes twice the memory.
        preprocessing: `fast` resizes on the GPU; `exact` runs the CPU's pipeline, bit for bit.
        max_graphs: CUDA graphs a model keeps, one per batch size and input shape; the one used
            longest ago goes first. Each one costs GPU memory.
        warm_up_batches: sizes of batches, made ready before the first request. A batch that is cut
            short by `batch.max_images` or `batch.max_pixels` gets the largest of them that fits;
            a smaller batch is filled up to the next one.
    """

    precision: Literal["float16", "bfloat16", "float32"] = "float16"
    preprocessing: Literal["fast", "exact"] = "fast"
    max_graphs: PositiveInt = 64
    warm_up_batches: Annotated[tuple[PositiveInt, ...], NoDecode, Field(min_length=1)] = (
        1, 2, 4, 8, 16, 32, 64, 128,
    )  # fmt: skip

    @field_validator("warm_up_batches", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_list(value)

    @field_validator("warm_up_batches", mode="after")
    @classmethod
    def _sort(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))


class StubSettings(Section):
    """The backend without a network, for load tests of the service itself.

    Attributes:
        batch_ms: every batch takes this long, apart from the warm-up.
        image_ms: and this much more per image.
        poison_width: pictures of this width make their batch fail; 0: none.
        crash_after_batches: the device thread dies after this many batches; 0: never.
        hang_after_batches: the batch after so many never ends; 0: none does.
        memory_images: larger batches find no device memory; 0: all fit.
        leak_bytes: every image leaves so much memory behind, which a soak test must notice.
    """

    batch_ms: NonNegativeFloat = 0.0
    image_ms: NonNegativeFloat = 0.0
    poison_width: NonNegativeInt = 0
    crash_after_batches: NonNegativeInt = 0
    hang_after_batches: NonNegativeInt = 0
    memory_images: NonNegativeInt = 0
    leak_bytes: NonNegativeInt = 0
