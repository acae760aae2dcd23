"""What all requests for work share, whatever their form: body, time, the way through the engine."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from model.results import Params
from service.engine.base import Engine, Job, Outcome, Picture, Priority, ServedModel
from service.errors import ClientGoneError, InternalError, InvalidParameterError, service_error
from service.request_record import RequestRecord
from service.setting_groups import TimeoutSettings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


class Jobs:
    """Asks the engine once per picture, and counts what became of them."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics

    def models(self) -> tuple[ServedModel, ...]:
        """Models that answer; none while they are being loaded."""
        return self._engine.models()

    async def run(
        self,
        record: RequestRecord,
        model: ServedModel,
        images: Sequence[Picture],
        params: Params,
        *,
        deadline: float,
        priority: Priority,
    ) -> list[Outcome | Exception]:
        """What became of each picture, in their order.

        Args:
            deadline: `time.monotonic()` seconds.

        Raises:
            ServiceError: and the errors of `model.images`, when there is one picture only.
        """
        jobs = [
            self._engine.predict(
                Job(
                    model=model.spec.name,
                    image=image,
                    params=params,
                    deadline=deadline,
                    priority=priority,
                    client=record.key_digest,
                    is_alone=len(images) == 1,
                )
            )
            for image in images
        ]
        if len(jobs) == 1:
            outcomes: list[Outcome | Exception] = [await jobs[0]]
        else:
            outcomes = _without_cancellations(await asyncio.gather(*jobs, return_exceptions=True))
        self._note_stages(record, model, outcomes)
        return outcomes

    def _note_stages(
        self, record: RequestRecord, model: ServedModel, outcomes: Sequence[Outcome | Exception]
    ) -> None:
        """Of several images the header shows the slowest, stage by stage."""
        stages = record.stage_seconds
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                if isinstance(service_error(outcome), InternalError):
                    log.error("unexpected error", exc_info=outcome)
                continue
            self._metrics.observe_stages(model.spec.task, outcome.stage_seconds)
            record.batch_size = max(outcome.batch_size, record.batch_size or 0)
            for stage, seconds in outcome.stage_seconds.items():
                stages[stage] = max(seconds, stages.get(stage, 0.0))

    def note_encoded(self, record: RequestRecord, model: ServedModel, *, started: float) -> None:
        """The answer is written.

        Args:
            started: `time.monotonic()` seconds, when writing it began.
        """
        record.stage_seconds["encode"] = time.monotonic() - started
        self._metrics.observe_stages(
            model.spec.task, {name: record.stage_seconds[name] for name in ("read", "encode")}
        )


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        ClientGoneError: it ends too early.
        ServiceError: of the layers that count it.
    """
    try:
        return await request.body()
    except ClientDisconnect as exc:
        raise ClientGoneError("the client left before the end of the body") from exc


def timeout_s(request: Request, wanted_ms: float | None, timeouts: TimeoutSettings) -> float:
    """How long the answer may take: as asked for, by the header, or by default.

    Raises:
        InvalidParameterError: a header that is no number, or more than is allowed.
    """
    header = request.headers.get("x-request-timeout-ms")
    if wanted_ms is None and header is not None:
        if not (header.isascii() and header.isdigit() and len(header) <= 9 and int(header)):
            raise InvalidParameterError(
                f"X-Request-Timeout-Ms is {header[:40]!r}, expected a positive integer"
            )
        wanted_ms = int(header)
    if wanted_ms is not None and wanted_ms > timeouts.max_request_ms:
        raise InvalidParameterError(
            f"the timeout is {wanted_ms} ms, at most {timeouts.max_request_ms} ms are allowed"
        )
    return (wanted_ms or timeouts.request_ms) / 1000


def header_priority(request: Request) -> Priority:
    """From the header `X-Priority`; as with other servers 1 goes first.

    Raises:
        InvalidParameterError: neither a name nor a number of one.
    """
    given = request.headers.get("x-priority", "normal").strip().lower()
    for priority in Priority:
        if given in (priority.name.lower(), str(priority.value)):
            return priority
    raise InvalidParameterError(f"X-Priority is {given[:40]!r}, expected `high` or `normal`")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
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
