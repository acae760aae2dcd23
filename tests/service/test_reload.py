"""A reload swaps models under load: nobody waits, nobody is lost, failures change nothing."""

import asyncio
import gc
import weakref
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from service.administration import EngineAdministration
from service.catalog import CatalogChanges, CatalogEntry
from service.engine.base import EngineState
from service.errors import ModelNotFoundError, ReloadRefusedError
from service.settings import Settings
from tests.service.conftest import Start
from tests.service.pictures import jpeg
from tests.service.processes import free_port, service_process
from tests.service.running import Running, until
from tests.service.test_pressure import fill_pipeline

pytestmark = pytest.mark.anyio
LABELS = {"task": "classify", "model": "stub-classify"}


def administration(running: Running) -> EngineAdministration:
    return EngineAdministration(running.core, name="service")


async def test_work_goes_on_and_what_is_in_work_keeps_its_model(start: Start) -> None:
    async with start(batch={"max_images": 1}) as running:
        with running.held_device() as release:
            before = await fill_pipeline(running)
            old = running.core.entry("stub-classify")
            waiting = [
                asyncio.create_task(running.client.post("/classify", content=jpeg()))
                for _ in range(3)
            ]
            await until(lambda: running.metric("smserve_queue_depth", task="classify") == 3)
            reload = asyncio.create_task(administration(running).reload(None))
            # the warm-up of the first new model waits with the batch that is prepared
            await until(lambda: running.core._device.compute._calls.qsize() == 2)
            release()
            report = await reload
        new = running.core.entry("stub-classify")
        assert new.backend is not old.backend
        assert {change.change for change in report.changes} == {"changed"}
        later = [running.client.post("/classify", content=jpeg()) for _ in range(2)]
        answers = await asyncio.gather(*before, *waiting, *later)
        assert [one.status_code for one in answers] == [200] * 7
        # its warm-up, and what was accepted before the swap
        assert old.backend.num_batches == 1 + 5  # type: ignore[attr-defined]
        assert new.backend.num_batches == 1 + 2  # type: ignore[attr-defined]


async def test_one_model_alone(start: Start) -> None:
    async with start() as running:
        before = dict(running.core.entries())
        report = await administration(running).reload("stub-detect")
        assert [change.name for change in report.changes] == ["stub-detect"]
        after = running.core.entries()
        assert after["stub-detect"].loading != before["stub-detect"].loading
        for name in ("stub-classify", "stub-segment"):
            assert after[name] == before[name], "what is not named is left alone"
        status = await administration(running).status()
        assert [own.name for own in status.models] == list(after)
        assert status.processes[0].state == "ready"


async def test_what_cannot_be_loaded_changes_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("a damaged file")

    async with start() as running:
        before = dict(running.core.entries())
        with pytest.raises(ModelNotFoundError):
            await administration(running).reload("nobody")
        monkeypatch.setattr("service.engine.core.reload_catalog", broken)
        with pytest.raises(ValueError, match="damaged"):
            await administration(running).reload(None)
        assert dict(running.core.entries()) == before
        assert (await running.client.post("/classify", content=jpeg())).status_code == 200
        assert running.core.status().state is EngineState.READY


async def test_a_model_that_fails_its_warm_up_is_not_served(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as running:
        old = running.core.entry("stub-classify")
        monkeypatch.setattr(
            "service.backends.stub.StubBackend.infer", lambda *_: [][0], raising=True
        )
        with pytest.raises(IndexError):
            await administration(running).reload("stub-classify")
        monkeypatch.undo()
        assert running.core.entry("stub-classify") is old
        assert running.core.metrics._infos["stub-classify"][-1] == (old.backend.sha256 or "")
        assert running.metric("smserve_model_ready", **LABELS) == 1
        assert (await running.client.post("/classify", content=jpeg())).status_code == 200


async def test_a_model_that_is_gone_is_told_of_no_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_detection(
        settings: Settings, current: Mapping[str, CatalogEntry], name: str | None
    ) -> CatalogChanges:
        kept = tuple(entry for key, entry in current.items() if key != "stub-detect")
        return CatalogChanges(entries=kept, loaded=(), gone=("stub-detect",))

    async with start() as running:
        info = {"task": "detect", "model": "stub-detect", "backend": "stub"}
        info |= {"device": "cpu", "dtype": "uint8", "sha256": ""}
        assert running.metric("smserve_model_info", **info) == 1
        monkeypatch.setattr("service.engine.core.reload_catalog", without_detection)
        gone = weakref.ref(running.core.entry("stub-detect").backend)
        report = await administration(running).reload(None)
        assert [change.change for change in report.changes] == ["gone"]
        registry = running.core.metrics.registry
        assert registry.get_sample_value("smserve_model_info", info) is None
        assert running.metric("smserve_model_ready", task="detect", model="stub-detect") == 0
        gc.collect()
        assert gone() is None, "nothing holds on to it, nor to its memory"


async def test_not_while_it_stops(start: Start) -> None:
    async with start() as running:
        running.core.begin_draining()
        with pytest.raises(ReloadRefusedError, match="draining"):
            await administration(running).reload(None)


@pytest.mark.slow
@pytest.mark.parametrize("frontends", ["0", "2"])
def test_over_the_operators_endpoint(frontends: str) -> None:
    port = free_port()
    with service_process(frontends=frontends, admin__port=str(port)) as service:
        admin = f"http://127.0.0.1:{port}"
        before = httpx.get(f"{admin}/status").json()
        report = httpx.post(f"{admin}/reload", timeout=30)
        assert report.status_code == 200, report.text
        assert {own["change"] for own in report.json()["changes"]} == {"changed"}
        after = httpx.get(f"{admin}/status").json()
        assert [own["name"] for own in after["models"]] == [own["name"] for own in before["models"]]
        assert all(
            new["since"] > old["since"]
            for new, old in zip(after["models"], before["models"], strict=True)
        )
        names = [own["name"] for own in after["processes"]]
        wanted = ["service"] if frontends == "0" else ["engine-0", "front-0", "front-1"]
        assert names == wanted
        assert httpx.post(f"{admin}/reload", params={"model": "nobody"}).status_code == 404
        assert httpx.post(f"{service.url}/classify", content=jpeg()).status_code == 200
        assert httpx.post(f"{service.url}/reload").status_code == 404
