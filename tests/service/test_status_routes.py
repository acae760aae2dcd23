"""Health, models, metrics, pages, samples."""

import asyncio
import re
from pathlib import Path

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from demo.shipped import sample_files, sample_titles
from service.app import create_app
from service.routes import pages
from service.schemas import ModelList, Sample
from service.settings import Settings
from tests.service.conftest import Start
from tests.service.pictures import jpeg
from tests.service.running import wait_until_ready

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz", "/health", "/healthz", "/ping"])
async def test_a_ready_service_is_healthy(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


async def test_a_starting_service_is_alive_but_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()

    async def slow(function: object, *args: object) -> object:
        await gate.wait()
        return function(*args)  # type: ignore[operator]

    monkeypatch.setattr("service.engine.local.asyncio.to_thread", slow)
    app = create_app(Settings(backend="stub"))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        await asyncio.sleep(0.01)
        assert (await client.get("/livez")).status_code == 200
        for path in ("/readyz", "/startupz"):
            response = await client.get(path)
            assert response.status_code == 503
            assert response.json()["code"] == "not_ready"
        response = await client.post("/classify", content=jpeg())
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert (await client.get("/models")).json()["models"] == []
        gate.set()
        await wait_until_ready(app)
        assert (await client.post("/classify", content=jpeg())).status_code == 200


async def test_a_model_that_cannot_be_loaded_fails_the_service(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"not a model")
    app = create_app(Settings(models_dir=tmp_path, demo_models=False))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        await wait_until_ready(app)
        for path in ("/livez", "/readyz", "/startupz"):
            assert (await client.get(path)).status_code == 503
        failure = app.state.context.lifecycle.failure
        assert "broken.safetensors" in failure


async def test_a_silent_device_thread_is_not_alive(start: Start) -> None:
    async with start(timeouts={"heartbeat_s": 0.7}) as running:
        # of a device in another process it says nothing about this one's life
        path = "/livez" if running.apart is None else "/readyz"

        async def once(status: int) -> httpx.Response:
            with anyio.fail_after(30):
                while (response := await running.client.get(path)).status_code != status:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            return response

        with running.held_device() as release:
            post = asyncio.create_task(running.client.post("/classify", content=jpeg()))
            response = await once(503)
            assert "silent" in response.json()["detail"]
            assert not post.done()
            release()
            assert (await post).status_code == 200
        await once(200)


async def test_models(client: httpx.AsyncClient) -> None:
    response = await client.get("/models")
    listing = ModelList.model_validate_json(response.content)
    assert [one.task for one in listing.models] == ["classify", "detect", "segment"]
    first = listing.models[0]
    assert (first.name, first.backend, first.device) == ("stub-classify", "stub", "cpu")
    assert first.demo
    assert first.default
    assert (first.input.short, first.input.crop) == (256, 224)
    assert "red" in first.classes
    assert listing.limits.max_pixels == 50_000_000


async def test_every_label_set_exists_before_the_first_request(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    ours = {name for name in families if name.startswith("smserve_")}
    assert ours >= {
        "smserve_requests",
        "smserve_request_duration_seconds",
        "smserve_stage_duration_seconds",
        "smserve_images",
        "smserve_batch_size_images",
        "smserve_batches",
        "smserve_pixels",
        "smserve_queue_depth",
        "smserve_queue_pixels",
        "smserve_queue_oldest_age_seconds",
        "smserve_inflight_requests",
        "smserve_rejected",
        "smserve_dropped",
        "smserve_decode_errors",
        "smserve_model_ready",
        "smserve_model_info",
        "smserve_model_warm_up_seconds",
        "smserve_model_graphs",
        "smserve_device_out_of_memory",
        "smserve_draining",
        "smserve_build_info",
        "smserve_processes",
        "smserve_process_restarts",
    }
    assert "process_resident_memory_bytes" in families
    empty = [name for name in ours if not families[name].samples]
    assert empty == []
    codes = {
        sample.labels["code"]
        for sample in families["smserve_requests"].samples
        if sample.labels.get("model") == "stub-detect"
    }
    assert codes >= {"200", "413", "422", "429", "503", "504"}


async def test_requests_and_stages_are_counted(start: Start) -> None:
    async with start() as running:
        for _ in range(3):
            await running.client.post("/detect", content=jpeg())
        await running.client.post("/detect", params={"model": "none"}, content=jpeg())
        labels = {"task": "detect", "model": "stub-detect"}
        assert running.metric("smserve_requests_total", code="200", **labels) == 3
        assert running.metric("smserve_images_total", outcome="ok", **labels) == 3
        assert running.metric("smserve_request_duration_seconds_count", **labels) == 3
        unknown = {"task": "detect", "model": "unknown", "code": "404"}
        assert running.metric("smserve_requests_total", **unknown) == 1
        for stage in ("read", "decode", "queue", "infer", "postprocess", "encode"):
            name = "smserve_stage_duration_seconds_count"
            assert running.metric(name, stage=stage, task="detect") == 3, stage


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_load_nothing_from_elsewhere(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    links = re.findall(r'(?:src|href)="([^"#]+)"', response.text)
    assert links
    for link in links:
        assert not link.startswith(("http:", "https:", "//")), link
        target = await client.get(f"/{link.lstrip('/')}")
        assert target.status_code == 200, link


async def test_scripts_are_asked_about_before_a_copy_is_used(client: httpx.AsyncClient) -> None:
    path = "/static/playground/segment.js"
    first = await client.get(path)
    again = await client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (first.status_code, again.status_code) == (200, 304)
    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/samples/..%2fapp.py"],
)
async def test_files_outside_are_out_of_reach(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code in (404, 405)
    assert response.json()["code"] in ("not_found", "method_not_allowed")


async def test_samples(
    client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "red-car.jpg").write_bytes(jpeg(40, 30))
    monkeypatch.setattr(pages, "sample_images", lambda: [tmp_path / "red-car.jpg"])
    pages._samples.cache_clear()
    try:
        listing = [Sample.model_validate(one) for one in (await client.get("/samples")).json()]
        assert [(one.name, one.width, one.height) for one in listing] == [("red-car.jpg", 40, 30)]
        assert listing[0].title == "Red car"
        response = await client.get(listing[0].url)
        assert response.content == jpeg(40, 30)
        assert response.headers["content-type"] == "image/jpeg"
        assert (await client.get("/samples/other.jpg")).status_code == 404
    finally:
        pages._samples.cache_clear()


def test_every_shipped_sample_has_a_title() -> None:
    names = {path.name for path in sample_files()}
    assert names
    assert set(sample_titles()) == names


async def test_unknown_routes_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    response = await client.get("/nothing")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    response = await client.get("/classify")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert response.headers["content-type"] == "application/problem+json"
