"""Start the application inside a test and look at its counters."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx
from fastapi import FastAPI

from service.app import EngineFactory, create_app, local_engine
from service.context import ServiceContext
from service.engine.base import EngineState
from service.settings import Settings


@dataclass(frozen=True)
class Running:
    app: FastAPI
    client: httpx.AsyncClient

    @property
    def context(self) -> ServiceContext:
        context: ServiceContext = self.app.state.context
        return context

    def metric(self, name: str, **labels: str) -> float:
        """Value of a sample, which must exist."""
        value = self.context.metrics.registry.get_sample_value(name, labels)
        assert value is not None, f"no sample {name} {labels}"
        return value


@asynccontextmanager
async def running_service(
    settings: Settings, *, open_engine: EngineFactory = local_engine, ready_s: float = 30
) -> AsyncIterator[Running]:
    """The application inside its lifespan, ready."""
    app = create_app(settings, open_engine=open_engine)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport, base_url="http://service", timeout=ready_s
        ) as client,
    ):
        await wait_until_ready(app, ready_s)
        yield Running(app, client)


async def wait_until_ready(app: FastAPI, ready_s: float = 30) -> None:
    with anyio.fail_after(ready_s):
        # the engine has no event for this: probes poll it, too
        while app.state.context.engine.status().state is EngineState.STARTING:  # noqa: ASYNC110
            await anyio.sleep(0.005)
