"""Health, metrics and the list of models."""

from fastapi import APIRouter
from starlette.responses import Response

from model.config import TaskName
from service.context import Context, ServiceContext
from service.documentation import COMMON_ERRORS, KEY_ERRORS, problem_responses
from service.engine.base import EngineState, ServedModel
from service.errors import EngineUnavailableError, NotReadyError, ShuttingDownError
from service.lifecycle import Phase
from service.schemas import Health, InputSize, Limits, ModelDescription, ModelList

router = APIRouter(tags=["status"])
_OK = Health(status="ok")
_HEALTH_ERRORS = problem_responses([*COMMON_ERRORS, NotReadyError, EngineUnavailableError])
_TASK_ORDER = list(TaskName)


@router.get("/livez", responses=_HEALTH_ERRORS)
async def livez(context: Context) -> Health:
    """The process works; also while it loads or drains."""
    refuse_when_dead(context)
    return _OK


@router.get("/startupz", responses=_HEALTH_ERRORS)
async def startupz(context: Context) -> Health:
    """All models have been loaded and warmed up."""
    refuse_when_dead(context)
    if context.engine.status().state is EngineState.STARTING:
        raise NotReadyError(context.engine.status().detail, retry_after_s=5)
    return _OK


@router.get("/readyz", responses=_HEALTH_ERRORS)
@router.get("/health", include_in_schema=False)
@router.get("/healthz", include_in_schema=False)
@router.get("/ping", include_in_schema=False)
async def readyz(context: Context) -> Health:
    """New work is welcome. A full queue does not change that."""
    if context.lifecycle.phase is not Phase.OPEN:
        raise ShuttingDownError("the server is shutting down", retry_after_s=5)
    refuse_when_dead(context)
    status = context.engine.status()
    if status.state is not EngineState.READY:
        raise NotReadyError(status.detail, retry_after_s=5)
    return _OK


def refuse_when_dead(context: ServiceContext) -> None:
    """What `/livez` says.

    Raises:
        EngineUnavailableError: the engine has failed, or its device is silent for too long.
    """
    status = context.engine.status()
    limit = context.settings.timeouts.heartbeat_s
    if status.state is EngineState.FAILED:
        raise EngineUnavailableError("the engine has failed")
    # before the start there is no thread that could beat
    if status.state is not EngineState.STARTING and status.heartbeat_age_s > limit:
        raise EngineUnavailableError(
            f"the device thread is silent for {status.heartbeat_age_s:.0f} s, limit {limit:.0f} s"
        )


@router.get("/metrics", response_model=None, include_in_schema=False)
async def metrics(context: Context) -> Response:
    content, media_type = await context.scrape()
    return Response(content, media_type=media_type)


@router.get("/models", responses=problem_responses(KEY_ERRORS))
async def models(context: Context) -> ModelList:
    """The served models; of each task the default first."""
    limits = context.settings.limits
    served = sorted(
        context.engine.models(),
        key=lambda one: (_TASK_ORDER.index(one.spec.task), not one.is_default, one.spec.name),
    )
    return ModelList(
        models=[_describe(model) for model in served],
        limits=Limits(
            max_body_bytes=limits.max_body_bytes,
            max_pixels=limits.max_pixels,
            max_side=limits.max_side,
            max_images_per_request=limits.max_images_per_request,
        ),
    )


def _describe(model: ServedModel) -> ModelDescription:
    spec = model.spec
    return ModelDescription(
        name=spec.name,
        task=spec.task,
        variant=spec.variant,
        backend=model.backend,
        device=model.device,
        dtype=model.dtype,
        input=InputSize(
            short=spec.input.short,
            long=spec.input.long,
            crop=spec.input.crop,
            pad_multiple=spec.input.pad_multiple,
        ),
        classes=list(spec.class_names),
        demo=spec.demo,
        default=model.is_default,
        sha256=model.sha256,
        source_sha256=spec.source_sha256,
    )
