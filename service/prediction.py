"""The route of a request: body -> pictures -> engine -> answers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from starlette.requests import Request
from starlette.responses import Response

from model.config import ModelSpec, TaskName
from model.images import DecodeLimits, decode_rgb
from model.results import Segmentation
from service.answers import AnswerOptions, build_answer, label_map_png
from service.bodies import ImageBody, is_bare_picture, parse_body
from service.engine.base import Outcome, Priority, ServedModel
from service.engine.budget import Turnstile
from service.errors import InvalidParameterError, ModelNotFoundError, NotReadyError, problem
from service.jobs import Jobs, header_priority, read_body, timeout_s, unless_gone
from service.negotiation import Output, choose_output
from service.overlay import draw_overlay
from service.parameters import Plan, TaskQuery, build_plan, with_json_parameters
from service.pool import CpuPool
from service.request_record import RequestRecord, record_of
from service.settings import Settings

DefaultFormat = Literal["native", "hf"]
PARSE_ON_POOL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Call:
    """One request, understood."""

    record: RequestRecord
    model: ServedModel
    plan: Plan
    images: Sequence[bytes]
    output: Output


class PredictionService:
    """Answers requests for the three tasks."""

    def __init__(self, jobs: Jobs, pool: CpuPool, settings: Settings) -> None:
        self._jobs = jobs
        self._pool = pool
        self._settings = settings
        self._drawing = Turnstile(settings.queue.max_decode_pixels)

    async def answer(
        self, request: Request, task: TaskName, query: TaskQuery, default_format: DefaultFormat
    ) -> Response:
        """Read, compute, answer.

        Raises:
            ServiceError: and the errors of `model.images`; the access layer answers them.
        """
        body = await self._read_body(request)
        if body.is_json:
            query = with_json_parameters(query, task, dict(body.parameters))
            default_format = "hf"
        allowed_s = timeout_s(request, query.timeout_ms, self._settings.timeouts)
        priority = header_priority(request)
        call = self._understand(request, task, query, body, default_format)
        deadline = time.monotonic() + allowed_s
        return await unless_gone(request.receive, self._compute(call, deadline, priority))

    async def _read_body(self, request: Request) -> ImageBody:
        started = time.monotonic()
        data = await read_body(request)
        content_type = request.headers.get("content-type", "")
        limits = self._settings.limits
        if len(data) > PARSE_ON_POOL_BYTES and not is_bare_picture(content_type):
            body = await self._pool.run(parse_body, data, content_type, limits)
        else:
            body = parse_body(data, content_type, limits)
        record = record_of(request.scope)
        record.num_images = len(body.images)
        record.stage_seconds["read"] = time.monotonic() - started
        return body

    def _understand(
        self,
        request: Request,
        task: TaskName,
        query: TaskQuery,
        body: ImageBody,
        default_format: DefaultFormat,
    ) -> _Call:
        record = record_of(request.scope)
        model = _select_model(self._jobs.models(), task, query.model)
        record.model = model.spec.name
        output = choose_output(
            getattr(query, "output", None),
            request.headers.get("accept"),
            num_images=len(body.images),
        )
        plan = build_plan(
            query,
            model.spec,
            self._settings.thresholds,
            default_format=default_format,
            is_picture=output != "json",
        )
        if plan.image_ids is not None and len(plan.image_ids) != len(body.images):
            raise InvalidParameterError(
                f"{len(plan.image_ids)} image_ids for {len(body.images)} pictures"
            )
        return _Call(record, model, plan, body.images, output)

    async def _compute(self, call: _Call, deadline: float, priority: Priority) -> Response:
        outcomes = await self._jobs.run(
            call.record,
            call.model,
            call.images,
            call.plan.params,
            deadline=deadline,
            priority=priority,
        )
        started = time.monotonic()
        response = await self._encode(call, outcomes)
        self._jobs.note_encoded(call.record, call.model, started=started)
        return response

    async def _encode(self, call: _Call, outcomes: Sequence[Outcome | Exception]) -> Response:
        first, spec = outcomes[0], call.model.spec
        if call.output == "json" or isinstance(first, Exception):
            if spec.task is TaskName.CLASSIFY and len(outcomes) == 1:
                # a few numbers: another thread would take longer to be reached
                content = _encode_json(call, outcomes)
            else:
                content = await self._pool.run(_encode_json, call, outcomes)
            return Response(content, media_type="application/json")
        if call.output == "labels" and isinstance(first.result, Segmentation):
            content = await self._pool.run(label_map_png, first.result)
        else:
            async with self._drawing.hold(first.height * first.width):
                content = await self._pool.run(
                    _draw, call.images[0], spec, first, call.plan.options
                )
        return Response(content, media_type="image/png")


def _select_model(models: Sequence[ServedModel], task: TaskName, name: str | None) -> ServedModel:
    """The named model, or the default of the task.

    Raises:
        NotReadyError: no model is loaded yet.
        ModelNotFoundError: no such model for this task.
    """
    if not models:
        raise NotReadyError("models are being loaded", retry_after_s=5)
    fitting = [model for model in models if model.spec.task is task]
    for model in fitting:
        if model.spec.name == name or (name is None and model.is_default):
            return model
    known = ", ".join(model.spec.name for model in fitting) or "none"
    wanted = "no model is served" if name is None else f"there is no model {name[:60]!r}"
    raise ModelNotFoundError(f"{wanted} for {task}; served: {known}")


def _encode_json(call: _Call, outcomes: Sequence[Outcome | Exception]) -> bytes:
    read_s = call.record.stage_seconds.get("read", 0.0)
    image_ids = call.plan.image_ids or [None] * len(outcomes)
    answers = [
        _one_answer(call, outcome, read_s, image_id)
        for outcome, image_id in zip(outcomes, image_ids, strict=True)
    ]
    return orjson.dumps(answers if len(answers) > 1 else answers[0])


def _one_answer(
    call: _Call, outcome: Outcome | Exception, read_s: float, image_id: int | None
) -> Any:
    if isinstance(outcome, Exception):
        record = call.record
        return problem(outcome, instance=record.path, request_id=record.request_id)
    return build_answer(
        call.model.spec,
        outcome.result,
        call.plan.options,
        height=outcome.height,
        width=outcome.width,
        timings_ms=_milliseconds({"read": read_s, **outcome.stage_seconds}),
        image_id=image_id,
    )


def _milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: duration * 1000 for stage, duration in seconds.items()}


def _draw(image: bytes, spec: ModelSpec, outcome: Outcome, options: AnswerOptions) -> bytes:
    # decoded again: keeping the pixels of every waiting request would cost far more than this
    limits = DecodeLimits(max_pixels=outcome.height * outcome.width, max_side=2**31)
    rgb = decode_rgb(image, limits=limits)
    return draw_overlay(rgb, spec, outcome.result, options)
