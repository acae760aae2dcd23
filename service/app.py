"""The ASGI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from service.access import AccessMiddleware
from service.admin import admin_endpoint
from service.administration import EngineAdministration
from service.context import Scrape, ServiceContext
from service.documentation import install_openapi
from service.engine.base import Engine
from service.engine.budget import Allowance
from service.engine.local import LocalEngine
from service.errors import RouteNotFoundError, problem_response, service_error
from service.jobs import Jobs
from service.lifecycle import Lifecycle
from service.limits import AuthMiddleware, BodyLimitMiddleware, DrainMiddleware
from service.open_inference import routes as open_inference
from service.open_inference.inference import OpenInference
from service.pool import CpuPool
from service.prediction import PredictionService
from service.request_record import record_of
from service.routes import pages, status, tasks
from service.settings import Settings
from service.slow_readers import WholeAnswerMiddleware
from service.telemetry import Metrics, service_version
from service.tracing import Tracing, open_tracing

log = logging.getLogger(__name__)

EngineFactory = Callable[[Settings, CpuPool, Metrics, Lifecycle], Engine]


def local_engine(
    settings: Settings, pool: CpuPool, metrics: Metrics, lifecycle: Lifecycle
) -> Engine:
    """The engine in this process."""
    return LocalEngine(settings, pool, metrics, on_failure=lifecycle.fail)


def create_app(
    settings: Settings,
    *,
    open_engine: EngineFactory = local_engine,
    metrics: Metrics | None = None,
    scrape: Scrape | None = None,
) -> FastAPI:
    """Build the service; models are loaded by its lifespan, in the background.

    `app.state.context` is the `ServiceContext`.

    Args:
        metrics: where this process counts; None: new ones.
        scrape: what `/metrics` shows; None: what this process has counted.

    Raises:
        SettingsError: spans are wanted and the extra `tracing` is not installed.
    """
    tracing = open_tracing(settings.tracing)
    metrics = metrics or Metrics()
    lifecycle = Lifecycle(metrics)
    pool = CpuPool(settings.pool_size)
    engine = open_engine(settings, pool, metrics, lifecycle)
    jobs = Jobs(engine, metrics)
    held = Allowance(settings.queue.max_bytes, "bytes of bodies")
    app = FastAPI(
        title="smserve",
        summary="Image classification, object detection and segmentation with Spatial-Mamba",
        version=service_version(),
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        middleware=_middleware(settings, metrics, lifecycle, engine, held, tracing),
    )
    app.state.context = ServiceContext(
        settings=settings,
        metrics=metrics,
        lifecycle=lifecycle,
        pool=pool,
        engine=engine,
        prediction=PredictionService(jobs, pool, settings),
        open_inference=OpenInference(jobs, pool, settings, held),
        scrape=scrape or _own_metrics(metrics),
        tracing=tracing,
    )
    app.add_exception_handler(HTTPException, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_problem)
    for router in (tasks.router, open_inference.router, status.router, pages.router):
        app.include_router(router)
    app.mount("/static", pages.PageFiles(directory=pages.STATIC_FOLDER), name="static")
    install_openapi(app)
    return app


def _own_metrics(metrics: Metrics) -> Scrape:
    async def scrape() -> tuple[bytes, str]:
        return metrics.exposition()

    return scrape


def _middleware(
    settings: Settings,
    metrics: Metrics,
    lifecycle: Lifecycle,
    engine: Engine,
    held: Allowance,
    tracing: Tracing | None,
) -> list[Middleware]:
    """From the outside in."""
    layers = [
        Middleware(
            AccessMiddleware,
            metrics=metrics,
            lifecycle=lifecycle,
            models=engine.models,
            tracing=tracing,
        ),
        Middleware(WholeAnswerMiddleware),
        Middleware(AuthMiddleware, api_keys=settings.api_keys),
        Middleware(DrainMiddleware, lifecycle=lifecycle),
        Middleware(
            BodyLimitMiddleware,
            max_bytes=settings.limits.max_body_bytes,
            timeout_s=settings.timeouts.body_ms / 1000,
            held=held,
        ),
    ]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Server-Timing", "Retry-After"],
        )
        layers.insert(0, cors)
    return layers


@asynccontextmanager
async def _administered(context: ServiceContext) -> AsyncIterator[None]:
    """The endpoint for operators, where this process is the whole service."""
    if isinstance(context.engine, LocalEngine):
        administration = EngineAdministration(context.engine.core, name="service")
        async with admin_endpoint(context.settings.admin, administration):
            yield
    else:
        yield


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load in the background, so that the probes answer meanwhile."""
    context: ServiceContext = app.state.context
    starting = asyncio.create_task(_start(context.engine), name="engine-start")
    try:
        async with _administered(context):
            yield
    finally:
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        await context.engine.stop(timeout_s=context.settings.shutdown.drain_timeout_s)
        context.pool.close()
        if context.tracing is not None:
            await asyncio.to_thread(context.tracing.close)


async def _start(engine: Engine) -> None:
    try:
        await engine.start()
    except Exception:
        # the engine has reported its failure already; here is only the place in the code
        log.debug("the engine did not start", exc_info=True)


def _answer_problem(request: Request, exc: Exception) -> Response:
    """What FastAPI raises by itself, in our form."""
    record = record_of(request.scope)
    if isinstance(exc, HTTPException) and exc.status_code == 404:
        exc = RouteNotFoundError(f"there is nothing at {record.path[:100]!r}")
    record.error = service_error(exc).code
    return problem_response(exc, instance=record.path, request_id=record.request_id)
