"""The route of a request: body -> pictures -> engine -> answers."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from model.config import ModelSpec, TaskName
from model.images import DecodeLimits, decode_rgb
from model.results import Segmentation
from service.answers import AnswerOptions, build_answer, label_map_png
from service.bodies import ImageBody, parse_body
from service.engine.base import Engine, Job, Outcome, Priority, ServedModel
from service.engine.budget import Turnstile
from service.errors import (
    ClientGoneError,
    InternalError,
    InvalidParameterError,
    ModelNotFoundError,
    NotReadyError,
    problem,
    service_error,
)
from service.negotiation import Output, choose_output
from service.overlay import draw_overlay
from service.parameters import Plan, TaskQuery, build_plan, with_json_parameters
from service.pool import CpuPool
from service.request_record import RequestRecord, record_of
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")
DefaultFormat = Literal["native", "hf"]
_PARSE_ON_POOL_BYTES: Final = 64 * 1024


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

    def __init__(self, engine: Engine, pool: CpuPool, metrics: Metrics, settings: Settings) -> None:
        self._engine = engine
        self._pool = pool
        self._metrics = metrics
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
        timeout_ms = self._timeout_ms(request, query)
        priority = _priority(request)
        call = self._understand(request, task, query, body, default_format)
        deadline = time.monotonic() + timeout_ms / 1000
        return await _unless_gone(request.receive, self._compute(call, deadline, priority))

    async def _read_body(self, request: Request) -> ImageBody:
        started = time.monotonic()
        try:
            data = await request.body()
        except ClientDisconnect as exc:
            raise ClientGoneError("the client left before the end of the body") from exc
        content_type = request.headers.get("content-type", "")
        limits = self._settings.limits
        if len(data) > _PARSE_ON_POOL_BYTES:
            body = await self._pool.run(parse_body, data, content_type, limits)
        else:
            body = parse_body(data, content_type, limits)
        record = record_of(request.scope)
        record.num_images = len(body.images)
        record.stage_seconds["read"] = time.monotonic() - started
        return body

    def _timeout_ms(self, request: Request, query: TaskQuery) -> int:
        timeouts = self._settings.timeouts
        header = request.headers.get("x-request-timeout-ms")
        wanted = query.timeout_ms
        if wanted is None and header is not None:
            if not (header.isascii() and header.isdigit() and len(header) <= 9 and int(header)):
                raise InvalidParameterError(
                    f"X-Request-Timeout-Ms is {header[:40]!r}, expected a positive integer"
                )
            wanted = int(header)
        if wanted is not None and wanted > timeouts.max_request_ms:
            raise InvalidParameterError(
                f"the timeout is {wanted} ms, at most {timeouts.max_request_ms} ms are allowed"
            )
        return wanted or timeouts.request_ms

    def _understand(
        self,
        request: Request,
        task: TaskName,
        query: TaskQuery,
        body: ImageBody,
        default_format: DefaultFormat,
    ) -> _Call:
        record = record_of(request.scope)
        model = _select_model(self._engine.models(), task, query.model)
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
        return _Call(record, model, plan, body.images, output)

    async def _compute(self, call: _Call, deadline: float, priority: Priority) -> Response:
        jobs = [
            self._engine.predict(
                Job(
                    model=call.model.spec.name,
                    image=image,
                    params=call.plan.params,
                    deadline=deadline,
                    priority=priority,
                    client=call.record.key_digest,
                )
            )
            for image in call.images
        ]
        if len(jobs) == 1:
            outcomes: list[Outcome | Exception] = [await jobs[0]]
        else:
            outcomes = _without_cancellations(await asyncio.gather(*jobs, return_exceptions=True))
        self._note_stages(call, outcomes)
        started = time.monotonic()
        response = await self._encode(call, outcomes)
        call.record.stage_seconds["encode"] = time.monotonic() - started
        self._metrics.observe_stages(
            call.model.spec.task,
            {name: call.record.stage_seconds[name] for name in ("read", "encode")},
        )
        return response

    def _note_stages(self, call: _Call, outcomes: Sequence[Outcome | Exception]) -> None:
        """Of several images the header shows the slowest, stage by stage."""
        stages = call.record.stage_seconds
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                if isinstance(service_error(outcome), InternalError):
                    log.error("unexpected error", exc_info=outcome)
                continue
            self._metrics.observe_stages(call.model.spec.task, outcome.stage_seconds)
            call.record.batch_size = max(outcome.batch_size, call.record.batch_size or 0)
            for stage, seconds in outcome.stage_seconds.items():
                stages[stage] = max(seconds, stages.get(stage, 0.0))

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


def _priority(request: Request) -> Priority:
    """From the header `X-Priority`; as with other servers 1 goes first.

    Raises:
        InvalidParameterError: neither a name nor a number of one.
    """
    given = request.headers.get("x-priority", "normal").strip().lower()
    for priority in Priority:
        if given in (priority.name.lower(), str(priority.value)):
            return priority
    raise InvalidParameterError(f"X-Priority is {given[:40]!r}, expected `high` or `normal`")


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


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled when the client closes the connection.

    Raises:
        ClientGoneError: it did.
    """
    task = asyncio.current_task()
    watching = asyncio.ensure_future(_disconnected(receive))
    is_over = is_gone = False

    def give_up(ended: "asyncio.Task[None]") -> None:
        nonlocal is_gone
        if is_over or ended.cancelled() or task is None:
            return
        is_gone = True
        task.cancel()

    watching.add_done_callback(give_up)
    try:
        return await work
    except asyncio.CancelledError:
        # somebody else may have cancelled this task as well
        if is_gone and task is not None and not task.uncancel():
            raise ClientGoneError("the client closed the connection") from None
        raise
    finally:
        is_over = True
        watching.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _without_cancellations(
    outcomes: Sequence[Outcome | BaseException],
) -> list[Outcome | Exception]:
    checked: list[Outcome | Exception] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        checked.append(outcome)
    return checked


def _encode_json(call: _Call, outcomes: Sequence[Outcome | Exception]) -> bytes:
    read_s = call.record.stage_seconds.get("read", 0.0)
    answers = [_one_answer(call, outcome, read_s) for outcome in outcomes]
    return orjson.dumps(answers if len(answers) > 1 else answers[0])


def _one_answer(call: _Call, outcome: Outcome | Exception, read_s: float) -> Any:
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
    )


def _milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: duration * 1000 for stage, duration in seconds.items()}


def _draw(image: bytes, spec: ModelSpec, outcome: Outcome, options: AnswerOptions) -> bytes:
    # decoded again: keeping the pixels of every waiting request would cost far more than this
    limits = DecodeLimits(max_pixels=outcome.height * outcome.width, max_side=2**31)
    rgb = decode_rgb(image, limits=limits)
    return draw_overlay(rgb, spec, outcome.result, options)
