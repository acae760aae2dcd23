"""The service with models compiled for a GPU, played by a fake where there is none."""

import asyncio
import base64
import hashlib
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from demo.shipped import sample_files
from model.compiled.errors import UnsupportedGPUError
from model.config import TaskName
from service.app import create_app
from service.backends.selection import Selection, select_backend
from service.catalog import open_catalog
from service.settings import Settings, SettingsError
from tests.service.compiled_fake import FakeGpu
from tests.service.pictures import jpeg, photo
from tests.service.running import Running, running_service, until, wait_until_ready
from tests.service.test_gpu_metrics import FakeNvml
from tests.service.test_torch_backend import save_untrained

pytestmark = pytest.mark.anyio

LABELS = {"task": "classify", "model": "untrained-classify"}
# a batch begins as soon as it is full, however long that takes
ALL_EIGHT = {"max_images": 8, "max_delay_ms": 20_000}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for task in (TaskName.CLASSIFY, TaskName.SEGMENT):
        save_untrained(folder, task, f"untrained-{task}")
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu()
    fake.install(monkeypatch)
    return fake


def settings_for(folder: Path, **overrides: Any) -> Settings:
    settings: dict[str, Any] = {"batch": {"max_images": 8}, "torch_threads": 1, **overrides}
    return Settings(models_dir=folder, demo_models=False, **settings)


async def post_together(running: Running, count: int) -> list[httpx.Response]:
    posts = [running.client.post("/classify", content=photo(seed=seed)) for seed in range(count)]
    return await asyncio.wait_for(asyncio.gather(*posts), timeout=60)


@pytest.mark.parametrize(
    ("backend", "device", "has_gpu", "wanted"),
    [
        ("auto", "auto", False, Selection("torch", "cpu")),
        ("auto", "auto", True, Selection("triton", "cuda:0")),
        ("auto", "cpu", True, Selection("torch", "cpu")),
        ("auto", "cuda", True, Selection("triton", "cuda:0")),
        ("auto", "cuda", False, "device is cuda, but torch finds no CUDA device"),
        ("torch", "auto", False, Selection("torch", "cpu")),
        ("torch", "auto", True, Selection("torch", "cuda:0")),
        ("torch", "cuda", True, Selection("torch", "cuda:0")),
        ("triton", "auto", True, Selection("triton", "cuda:0")),
        ("triton", "cuda", True, Selection("triton", "cuda:0")),
        ("triton", "auto", False, "finds no CUDA device; the compiled models need an NVIDIA GPU"),
        ("triton", "cuda", False, "finds no CUDA device; the compiled models need an NVIDIA GPU"),
        ("triton", "cpu", True, "the device is cpu; the compiled models need an NVIDIA GPU"),
    ],
)
def test_the_backend_is_chosen_by_setting_and_device(
    monkeypatch: pytest.MonkeyPatch,
    backend: Any,
    device: str,
    has_gpu: bool,
    wanted: Selection | str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    if isinstance(wanted, Selection):
        assert select_backend(backend, device) == wanted
    else:
        with pytest.raises(ValueError, match=wanted) as failure:
            select_backend(backend, device)
        assert isinstance(failure.value, SettingsError) == (backend == "triton")


def test_a_gpu_that_is_too_old_is_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    found = "Old GPU with compute capability 7.0.* 8.0 or later"
    with pytest.raises(UnsupportedGPUError, match=found):
        select_backend("auto", "auto")
    with pytest.raises(SettingsError, match=found):
        select_backend("triton", "auto")
    assert select_backend("torch", "auto") == Selection("torch", "cuda:0")


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_settings_reach_the_compiled_model(gpu: FakeGpu, models_dir: Path, precision: str) -> None:
    settings = settings_for(
        models_dir,
        gpu={
            "precision": precision,
            "preprocessing": "exact",
            "max_graphs": 5,
            "warm_up_batches": [1, 3, 6, 9],
        },
    )
    entries = open_catalog(settings)
    for options in gpu.options:
        assert options.dtype is getattr(torch, precision)
        assert (options.preprocessing, options.max_graphs) == ("exact", 5)
        assert options.batch_buckets == (1, 3, 6)
    path = models_dir / "untrained-classify.safetensors"
    model = entries[0].model
    assert (model.backend, model.device, model.dtype) == ("triton", "cuda:0", precision)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


async def test_models_and_metrics_name_the_backend(
    gpu: FakeGpu, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeNvml(monkeypatch)
    async with running_service(settings_for(models_dir)) as running:
        for one in (await running.client.get("/models")).json()["models"]:
            assert (one["backend"], one["device"], one["dtype"]) == ("triton", "cuda:0", "float16")
        text = (await running.client.get("/metrics")).text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        info = families["smserve_model_info"].samples[0].labels
        assert (info["backend"], info["device"], info["dtype"]) == ("triton", "cuda:0", "float16")
        assert families["smserve_gpu_memory_used_bytes"].samples[0].value == 3e9
        assert running.metric("smserve_model_graphs", **LABELS) == 4
        assert running.metric("smserve_model_warm_up_seconds", **LABELS) > 0
        assert running.metric("smserve_device_out_of_memory_total", **LABELS) == 0


async def test_sizes_that_can_occur_are_warmed_up_the_largest_first(
    gpu: FakeGpu, models_dir: Path
) -> None:
    # segmentation's input of a 4:3 picture has 64 x 85 pixels: four of them, five with one to spare
    settings = settings_for(models_dir, batch={"max_images": 8, "max_pixels": 5 * 64 * 85 + 1})
    async with running_service(settings) as running:
        assert gpu.warmed == [
            *(("untrained-classify", size) for size in (4, 2, 1)),
            *(("untrained-segment", size) for size in (4, 2, 1)),
        ]
        sizes: list[int] = []
        first = threading.Event()

        def infer(batch: Sequence[Any]) -> None:
            sizes.append(len(batch))
            first.wait()

        gpu.on_infer = infer
        posts = asyncio.create_task(post_together(running, 12))
        await until(lambda: running.metric("smserve_queue_depth", task="classify") >= 4)
        first.set()
        assert {r.status_code for r in await posts} == {200}
        assert max(sizes) == 4, "not 5, which would be filled up to 8"


async def test_a_gpu_takes_larger_batches_and_more_work(gpu: FakeGpu, models_dir: Path) -> None:
    sizes: list[int] = []
    is_open = threading.Event()

    def infer(batch: Sequence[Any]) -> None:
        sizes.append(len(batch))
        is_open.wait()

    async with running_service(settings_for(models_dir, batch={})) as running:
        gpu.on_infer = infer
        posts = [
            asyncio.create_task(running.client.post("/classify", content=jpeg()))
            for _ in range(300)
        ]
        await until(lambda: running.metric("smserve_queue_depth", task="classify") >= 100)
        is_open.set()
        responses = await asyncio.gather(*posts)
        assert {response.status_code for response in responses} == {200}
        assert max(sizes) > 16, "what a CPU is given"


async def test_the_start_tells_how_far_it_is(gpu: FakeGpu, models_dir: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(size: int) -> None:
        if size == 2:
            reached.set()
            go_on.wait(20)

    gpu.on_warm_up = hold
    app = create_app(settings_for(models_dir))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        assert await asyncio.to_thread(reached.wait, 20)
        response = await client.get("/startupz")
        assert response.status_code == 503
        progress = "warming untrained-classify: 3 of 4 batch sizes"
        assert response.json()["detail"] == progress
        go_on.set()
        await wait_until_ready(app)
        assert (await client.get("/startupz")).status_code == 200


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("could not record it: CUDA out of memory. Tried 2 GiB", "lower batch.max_images"),
        ("could not record it: no such operation", "no such operation"),
    ],
)
async def test_a_failed_warm_up_fails_the_service(
    gpu: FakeGpu, models_dir: Path, reason: str, wanted: str
) -> None:
    gpu.on_warm_up = lambda size: reason if size == 4 else None
    app = create_app(settings_for(models_dir))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        await wait_until_ready(app)
        assert (await client.get("/startupz")).status_code == 503
        failure = app.state.context.lifecycle.failure
        assert wanted in failure
        assert reason in failure
    assert gpu.warmed[-1] == ("untrained-classify", 4)


async def test_a_batch_without_memory_is_repeated_in_halves(gpu: FakeGpu, models_dir: Path) -> None:
    sizes: list[int] = []

    def exhaust(batch: Sequence[Any]) -> None:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    async with running_service(settings_for(models_dir, batch=ALL_EIGHT)) as running:
        gpu.on_infer = exhaust
        async with asyncio.timeout(60):
            files = [("image", photo(seed=seed)) for seed in range(8)]
            response = await running.client.post("/classify", files=files)
        assert ["predictions" in one for one in response.json()] == [True] * 8
        num_failed = sum(size > 2 for size in sizes)
        assert num_failed
        assert running.metric("smserve_device_out_of_memory_total", **LABELS) == num_failed
        assert gpu.num_emptied == num_failed
        assert (await running.client.get("/readyz")).status_code == 200


async def test_a_failure_of_staging_is_judged_on_the_device_thread(
    gpu: FakeGpu, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges: list[str] = []
    monkeypatch.setattr(
        torch.cuda, "empty_cache", lambda: judges.append(threading.current_thread().name)
    )

    def exhaust(batch: Sequence[Any]) -> None:
        assert threading.current_thread().name == "smserve-staging"
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    async with running_service(settings_for(models_dir, batch=ALL_EIGHT)) as running:
        gpu.on_stage = exhaust
        async with asyncio.timeout(60):
            files = [("image", photo(seed=seed)) for seed in range(8)]
            response = await running.client.post("/classify", files=files)
        assert ["predictions" in one for one in response.json()] == [True] * 8
        assert set(judges) == {"smserve-device"}
        counted = running.metric("smserve_device_out_of_memory_total", **LABELS)
        assert counted == len(judges) > 0


async def test_a_refused_launch_fails_its_image_alone(gpu: FakeGpu, models_dir: Path) -> None:
    def refuse(batch: Sequence[Any]) -> None:
        if any(image.original_hw == (200, 320) for image in batch):
            raise torch.AcceleratorError("CUDA error: invalid configuration argument")

    async with running_service(settings_for(models_dir)) as running:
        gpu.on_infer = refuse
        files = [("image", photo(height=200 if n == 2 else 240, seed=n)) for n in range(4)]
        answers = (await running.client.post("/classify", files=files)).json()
        assert [one.get("status", 200) for one in answers] == [200, 200, 500, 200]
        assert (await running.client.get("/livez")).status_code == 200


async def test_a_broken_context_ends_the_service(gpu: FakeGpu, models_dir: Path) -> None:
    async with running_service(settings_for(models_dir)) as running:

        def break_down(batch: Sequence[Any]) -> None:
            gpu.is_broken = True
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        gpu.on_infer = break_down
        assert {r.status_code for r in await post_together(running, 6)} == {503}
        assert (await running.client.get("/livez")).status_code == 503
        failure = running.context.lifecycle.failure
        assert failure is not None
        assert "illegal memory access" in failure
        assert running.metric("smserve_model_ready", **LABELS) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
async def test_the_demo_models_answer_as_on_the_cpu() -> None:
    scenes = [path.read_bytes() for path in sample_files() if path.name.startswith("stickers")]
    on_gpu, on_cpu = [await answers_of(scenes, device) for device in ("cuda", "cpu")]
    for gpu_answer, cpu_answer in zip(on_gpu["classify"], on_cpu["classify"], strict=True):
        best, same = gpu_answer["predictions"][0], cpu_answer["predictions"][0]
        assert best["label"] == same["label"]
        assert best["score"] == pytest.approx(same["score"], abs=0.02)
    for gpu_answer, cpu_answer in zip(on_gpu["detect"], on_cpu["detect"], strict=True):
        # of the less certain ones, two boxes may be about as good, and rounding chooses: a zebra
        # with 0.75 gets another box as soon as the network on the CPU is rounded to float16
        sure = [one for one in cpu_answer["predictions"] if one["score"] > 0.8]
        assert sure, "a scene with nothing in it would compare nothing"
        for one in sure:
            found = [p for p in gpu_answer["predictions"] if p["label"] == one["label"]]
            assert max((overlap(p["box"], one["box"]) for p in found), default=0.0) > 0.9, one
    for gpu_answer, cpu_answer in zip(on_gpu["segment"], on_cpu["segment"], strict=True):
        assert (label_map(gpu_answer) == label_map(cpu_answer)).mean() > 0.99


async def answers_of(scenes: Sequence[bytes], device: str) -> dict[str, list[dict[str, Any]]]:
    settings = Settings(device=device, gpu={"warm_up_batches": [1, 4]})
    async with running_service(settings) as running:
        kind = "triton" if device == "cuda" else "torch"
        listing = (await running.client.get("/models")).json()["models"]
        assert {one["backend"] for one in listing} == {kind}
        text = (await running.client.get("/metrics")).text
        assert ("smserve_gpu_memory_used_bytes" in text) == (device == "cuda")
        answers = {}
        for task in TaskName:
            files = [("image", scene) for scene in scenes]
            answers[str(task)] = (await running.client.post(f"/{task}", files=files)).json()
        return answers


def overlap(one: dict[str, float], other: dict[str, float]) -> float:
    """Intersection over union."""
    width = min(one["xmax"], other["xmax"]) - max(one["xmin"], other["xmin"])
    height = min(one["ymax"], other["ymax"]) - max(one["ymin"], other["ymin"])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(b["xmax"] - b["xmin"]) * (b["ymax"] - b["ymin"]) for b in (one, other)]
    return shared / (sum(areas) - shared)


def label_map(answer: dict[str, Any]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["label_map"]))))
