"""The parts of one running service, as routes find them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.engine.base import Engine
from service.lifecycle import Lifecycle
from service.open_inference.inference import OpenInference
from service.pool import CpuPool
from service.prediction import PredictionService
from service.settings import Settings
from service.telemetry import Metrics
from service.tracing import Tracing

Scrape = Callable[[], Awaitable[tuple[bytes, str]]]


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """Built once per application, shared by all requests.

    Attributes:
        scrape: the text of all metrics of the service, and its media type.
    """

    settings: Settings
    metrics: Metrics
    lifecycle: Lifecycle
    pool: CpuPool
    engine: Engine
    prediction: PredictionService
    open_inference: OpenInference
    scrape: Scrape
    tracing: Tracing | None = None


async def context_of(request: Request) -> ServiceContext:
    """The context of the application that serves this request.

    `async`, since FastAPI sends others to a thread.
    """
    context: ServiceContext = request.app.state.context
    return context


Context = Annotated[ServiceContext, Depends(context_of)]
