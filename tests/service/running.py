"""Start the application inside a test and look at its counters."""

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
from fastapi import FastAPI

from service.app import EngineFactory, create_app, local_engine
from service.context import Scrape, ServiceContext
from service.engine.base import EngineState
from service.engine.core import EngineCore
from service.metrics_hub import MetricsHub
from service.pool import CpuPool
from service.processes.engine_server import EngineServer
from service.processes.remote import RemoteEngine
from service.settings import Settings
from service.telemetry import Metrics


@dataclass(frozen=True)
class Running:
    """A service.

    Attributes:
        apart: the engine, where it is not in the front end's own process.
    """

    app: FastAPI
    client: httpx.AsyncClient
    apart: EngineCore | None = None

    @property
    def context(self) -> ServiceContext:
        context: ServiceContext = self.app.state.context
        return context

    @property
    def core(self) -> EngineCore:
        """What computes."""
        core: EngineCore = self.apart or self.context.engine.core  # type: ignore[attr-defined]
        return core

    def metric(self, name: str, **labels: str) -> float:
        """Value of a sample, which must exist; the sum over front end and engine."""
        places = {self.context.metrics, self.core.metrics}
        values = [metrics.registry.get_sample_value(name, labels) for metrics in places]
        found = [value for value in values if value is not None]
        assert found, f"no sample {name} {labels}"
        return sum(found)

    @contextmanager
    def held_device(self) -> Iterator[Callable[[], None]]:
        """No batch ends before the function given is called, which the end of the block does, too.

        However slow the machine is, what a test does meanwhile happens before the batch ends.
        """
        gate = threading.Event()
        for entry in self.core.entries().values():
            entry.backend.infer = partial(  # type: ignore[method-assign]
                _infer_after, gate, entry.backend.infer
            )
        try:
            yield gate.set
        finally:
            gate.set()


def _infer_after(gate: threading.Event, infer: Callable[[Any], Any], staged: Any) -> Any:
    gate.wait()
    return infer(staged)


@asynccontextmanager
async def running_service(
    settings: Settings,
    *,
    open_engine: EngineFactory = local_engine,
    metrics: Metrics | None = None,
    scrape: Scrape | None = None,
    ready_s: float = 30,
) -> AsyncIterator[Running]:
    """The application inside its lifespan, ready."""
    app = create_app(settings, open_engine=open_engine, metrics=metrics, scrape=scrape)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport, base_url="http://service", timeout=ready_s
        ) as client,
    ):
        await wait_until_ready(app, ready_s)
        yield Running(app, client)


@asynccontextmanager
async def running_apart(settings: Settings) -> AsyncIterator[Running]:
    """Front end and engine as two processes have them, with a socket and shared memory between.

    They share this process and its event loop, so that a test can look into both.
    """
    with tempfile.TemporaryDirectory(prefix="smserve-test-") as folder:
        path, front_metrics = Path(folder) / "engine.sock", Metrics()
        async with (
            listening_engine(settings, path) as core,
            running_service(
                settings,
                open_engine=lambda settings, pool, metrics, _: RemoteEngine(
                    settings, pool, metrics, sockets=[path], num_fronts=1
                ),
                metrics=front_metrics,
                scrape=partial(_scrape, {"front-0": front_metrics, "engine-0": core.metrics}),
            ) as running,
        ):
            yield Running(running.app, running.client, core)


@asynccontextmanager
async def listening_engine(settings: Settings, path: Path) -> AsyncIterator[EngineCore]:
    """What an engine process holds, listening at `path`."""
    pool = CpuPool(2)
    failures: list[str] = []
    core = EngineCore(settings, pool, Metrics(), on_failure=failures.append)
    server = EngineServer(core, pool, max_images_per_key=settings.queue.max_images_per_key)
    server.listen(path)

    async def start() -> None:
        await core.start()
        server.announce()

    starting = asyncio.create_task(start())
    try:
        yield core
    finally:
        await starting
        await core.stop()
        server.close()
        pool.close()


async def _scrape(places: Mapping[str, Metrics]) -> tuple[bytes, str]:
    hub = MetricsHub()
    for name, metrics in places.items():
        hub.update(name, metrics.registry.snapshot())
    return hub.exposition()


async def until(condition: Callable[[], bool]) -> None:
    """Fails where waiting longer would not help on the slowest machine either."""
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - conditions are metrics
            await anyio.sleep(0.002)


async def wait_until_ready(app: FastAPI, ready_s: float = 30) -> None:
    with anyio.fail_after(ready_s):
        # the engine has no event for this: probes poll it, too
        while app.state.context.engine.status().state is EngineState.STARTING:  # noqa: ASYNC110
            await anyio.sleep(0.005)
