"""The route of an infer request: body -> pictures -> engine -> tensors."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from model.config import ModelSpec, TaskName
from service.engine.base import Outcome, Picture, Priority, ServedModel
from service.engine.budget import Allowance
from service.errors import (
    InvalidInferenceRequestError,
    ModelNotFoundError,
    NotReadyError,
    ServiceError,
    service_error,
)
from service.jobs import Jobs, header_priority, read_body, timeout_s, unless_gone
from service.open_inference.compression import compress, decompress
from service.open_inference.parameters import plan_of, scheduling_of
from service.open_inference.pictures import pictures_of
from service.open_inference.request import InferRequest, WantedOutput, parse_request
from service.open_inference.response import encode_response
from service.open_inference.results import as_classes, output_tensors
from service.open_inference.tensors import OUTPUTS, Tensor
from service.parameters import Plan
from service.pool import CpuPool
from service.prediction import PARSE_ON_POOL_BYTES
from service.request_record import RequestRecord, record_of
from service.settings import Settings
from service.work_paths import MODEL_VERSION

LENGTH_HEADER: Final = "inference-header-content-length"


@dataclass(frozen=True, slots=True)
class _Call:
    """One request, understood.

    Attributes:
        images: as they were sent.
        outputs: to be answered, in this order.
        accept_encoding: what the client can unpack.
    """

    record: RequestRecord
    model: ServedModel
    plan: Plan
    images: Sequence[Picture]
    outputs: Sequence[WantedOutput]
    request: InferRequest
    accept_encoding: str


class OpenInference:
    """Answers infer requests of the Open Inference Protocol.

    Args:
        held: bytes of bodies in memory; what unpacks is counted once more.
    """

    def __init__(self, jobs: Jobs, pool: CpuPool, settings: Settings, held: Allowance) -> None:
        self._jobs = jobs
        self._pool = pool
        self._settings = settings
        self._held = held

    async def infer(self, request: Request, name: str, version: str | None) -> Response:
        """Read, compute, answer.

        Raises:
            ServiceError: and the errors of `model.images`; the access layer answers them.
        """
        started = time.monotonic()
        data = await read_body(request)
        model = find_model(self._jobs.models(), name, version)
        record = record_of(request.scope)
        record.model = model.spec.name
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            limit = self._settings.limits.max_body_bytes
            unpacked = await self._pool.run(_unpack, data, coding, limit)
        else:
            unpacked = None
        with self._counted(unpacked):
            parsed, images = await self._parse(
                data if unpacked is None else unpacked, request.headers.get(LENGTH_HEADER)
            )
            call = self._understand(request, record, model, parsed, images)
            scheduling = scheduling_of(parsed.parameters)
            priority = scheduling.priority or header_priority(request)
            allowed_s = timeout_s(request, scheduling.timeout_ms, self._settings.timeouts)
            record.stage_seconds["read"] = time.monotonic() - started
            deadline = time.monotonic() + allowed_s
            return await unless_gone(request.receive, self._compute(call, deadline, priority))

    @contextmanager
    def _counted(self, unpacked: bytes | None) -> Iterator[None]:
        """Of a compressed body only what came over the network has been counted so far."""
        if unpacked is None:
            yield
            return
        with self._held.hold(len(unpacked), retry_after_s=lambda: 1):
            yield

    async def _parse(
        self, data: bytes, header_length: str | None
    ) -> tuple[InferRequest, tuple[Picture, ...]]:
        limit = self._settings.limits.max_images_per_request
        if len(data) > PARSE_ON_POOL_BYTES:
            return await self._pool.run(_parse, data, header_length, limit)
        return _parse(data, header_length, limit)

    def _understand(
        self,
        request: Request,
        record: RequestRecord,
        model: ServedModel,
        parsed: InferRequest,
        images: Sequence[Picture],
    ) -> _Call:
        record.num_images = len(images)
        outputs = _chosen_outputs(model.spec, parsed.outputs)
        plan = plan_of(
            parsed.parameters,
            model.spec,
            self._settings.thresholds,
            with_masks=any(one.name == "masks" for one in outputs),
        )
        accept_encoding = request.headers.get("accept-encoding", "")
        return _Call(record, model, plan, images, outputs, parsed, accept_encoding)

    async def _compute(self, call: _Call, deadline: float, priority: Priority) -> Response:
        found = await self._jobs.run(
            call.record,
            call.model,
            call.images,
            call.plan.params,
            deadline=deadline,
            priority=priority,
        )
        outcomes = _all_or_none(found)
        started = time.monotonic()
        max_pixels = self._settings.limits.max_pixels
        if call.model.spec.task is TaskName.CLASSIFY and len(outcomes) == 1:
            # a few numbers: another thread would take longer to be reached
            response = _encode(call, outcomes, max_pixels)
        else:
            response = await self._pool.run(_encode, call, outcomes, max_pixels)
        self._jobs.note_encoded(call.record, call.model, started=started)
        return response


def find_model(models: Sequence[ServedModel], name: str, version: str | None) -> ServedModel:
    """The model of a path.

    Raises:
        NotReadyError: no model is loaded yet.
        ModelNotFoundError: no such model, or no such version of it.
    """
    if not models:
        raise NotReadyError("models are being loaded", retry_after_s=5)
    model = next((one for one in models if one.spec.name == name), None)
    if model is None:
        known = ", ".join(one.spec.name for one in models)
        raise ModelNotFoundError(f"there is no model {name[:60]!r}; served: {known}")
    if version not in (None, MODEL_VERSION):
        raise ModelNotFoundError(
            f"there is no version {version[:40]!r} of {name}, only {MODEL_VERSION!r}"
        )
    return model


def _unpack(data: bytes, coding: str, max_bytes: int) -> bytes:
    return decompress(data, coding, max_bytes=max_bytes)


def _parse(
    data: bytes, header_length: str | None, max_images: int
) -> tuple[InferRequest, tuple[Picture, ...]]:
    parsed = parse_request(data, header_length)
    if not parsed.inputs:
        return parsed, (data,)
    return parsed, pictures_of(parsed, max_images=max_images)


def _chosen_outputs(spec: ModelSpec, wanted: Sequence[WantedOutput]) -> Sequence[WantedOutput]:
    names = [one.name for one in OUTPUTS[spec.task]]
    unknown = next((one.name for one in wanted if one.name not in names), None)
    if unknown is not None:
        raise InvalidInferenceRequestError(
            f"there is no output {unknown[:60]!r} of {spec.name}, only {', '.join(names)}"
        )
    if any(
        one.classes and (spec.task, one.name) != (TaskName.CLASSIFY, "scores") for one in wanted
    ):
        raise InvalidInferenceRequestError(
            "classification is offered for the output 'scores' of classifiers"
        )
    return wanted or [WantedOutput(name) for name in names]


def _all_or_none(found: Sequence[Outcome | Exception]) -> list[Outcome]:
    """A tensor has no place for an error: one bad picture fails its request."""
    outcomes = []
    for index, outcome in enumerate(found):
        if isinstance(outcome, Exception):
            error: ServiceError = service_error(outcome)
            raise type(error)(
                f"picture {index} of {len(found)}: {error.detail}",
                retry_after_s=error.retry_after_s,
            ) from outcome
        outcomes.append(outcome)
    return outcomes


def _encode(call: _Call, outcomes: Sequence[Outcome], max_pixels: int) -> Response:
    spec, options = call.model.spec, call.plan.options
    made = output_tensors(spec, outcomes, options, max_pixels=max_pixels)
    outputs: list[tuple[Tensor, bool]] = []
    for one in call.outputs:
        tensor = made[one.name]
        if one.classes:
            tensor = as_classes(one.name, spec, outcomes, options, one.classes)
        outputs.append((tensor, call.request.binary if one.binary is None else one.binary))
    content, json_length = encode_response(spec.name, call.request.request_id, outputs)
    headers = {"Vary": "Accept-Encoding"}
    if json_length is not None:
        headers["Inference-Header-Content-Length"] = str(json_length)
    content, coding = compress(content, call.accept_encoding)
    if coding is not None:
        headers["Content-Encoding"] = coding
    media_type = "application/json" if json_length is None else "application/octet-stream"
    return Response(content, headers=headers, media_type=media_type)
