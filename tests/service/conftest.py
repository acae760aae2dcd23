"""A service with the stub backend, driven in process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.service.running import Running, running_apart, running_service

Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the developer's shell must not reach the tests."""
    import os

    for name in [name for name in os.environ if name.upper().startswith("SMSERVE_")]:  # noqa: TID251
        monkeypatch.delenv(name)


@pytest.fixture(params=["alone", "apart"])
def form(request: pytest.FixtureRequest) -> str:
    """One process for everything, or front end and engine apart."""
    return str(request.param)


@pytest.fixture
def start(form: str) -> Start:
    """`async with start(limits={...}) as running:`; keyword arguments are settings."""
    run = running_service if form == "alone" else running_apart

    @asynccontextmanager
    async def start_service(**overrides: Any) -> AsyncIterator[Running]:
        settings = Settings(**{"backend": "stub", "pool_size": 2, **overrides})
        async with run(settings) as running:
            yield running

    return start_service


@pytest.fixture
async def client(start: Start) -> AsyncIterator[httpx.AsyncClient]:
    """Client of a service with default limits."""
    async with start() as running:
        yield running.client
