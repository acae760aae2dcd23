"""The service with real, if untrained, networks."""

from pathlib import Path

import httpx
import pytest
import torch

from model.config import TaskName
from service.app import create_app
from service.backends.torch_backend import TorchBackend, select_device
from service.catalog import open_catalog
from service.schemas import ClassifyAnswer, DetectAnswer, SegmentAnswer
from service.settings import SettingsError
from tests.service.pictures import photo
from tests.service.running import running_service, wait_until_ready
from tests.service.untrained import save_untrained, settings_for

pytestmark = pytest.mark.anyio

SCHEMAS = {"classify": ClassifyAnswer, "detect": DetectAnswer, "segment": SegmentAnswer}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for task in TaskName:
        save_untrained(folder, task, f"untrained-{task}")
    return folder


async def test_all_tasks_answer(models_dir: Path) -> None:
    async with running_service(settings_for(models_dir)) as running:
        for task, schema in SCHEMAS.items():
            response = await running.client.post(f"/{task}", content=photo())
            assert response.status_code == 200, response.text
            answer = schema.model_validate_json(response.content)
            assert answer.model.name == f"untrained-{task}"
            assert answer.model.demo is False
        listing = (await running.client.get("/models")).json()["models"]
        assert [one["backend"] for one in listing] == ["torch"] * 3
        assert [one["device"] for one in listing] == ["cpu"] * 3
        assert all(len(one["sha256"]) == 64 for one in listing)


async def test_an_answer_does_not_depend_on_its_batch(models_dir: Path) -> None:
    contents = [photo(seed=seed) for seed in range(4)]
    async with running_service(settings_for(models_dir)) as running:
        alone = [
            (await running.client.post("/classify", content=content)).json()["predictions"]
            for content in contents
        ]
        files = [("image", content) for content in contents]
        together = (await running.client.post("/classify", files=files)).json()
        for one, other in zip(alone, together, strict=True):
            assert [p["label"] for p in one] == [p["label"] for p in other["predictions"]]
            scores = [p["score"] for p in other["predictions"]]
            assert [p["score"] for p in one] == pytest.approx(scores, abs=1e-5)


async def test_two_models_of_one_name_stop_the_start(tmp_path: Path) -> None:
    for file in ("a", "b"):
        save_untrained(tmp_path, TaskName.CLASSIFY, "twin", file)
    app = create_app(settings_for(tmp_path))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport):
        await wait_until_ready(app)
        assert "twin" in app.state.context.lifecycle.failure


def test_the_first_file_of_the_folder_is_the_default(tmp_path: Path) -> None:
    save_untrained(tmp_path, TaskName.CLASSIFY, "second", "b")
    save_untrained(tmp_path, TaskName.CLASSIFY, "first", "a")
    entries = open_catalog(settings_for(tmp_path))
    assert [(e.model.spec.name, e.model.is_default) for e in entries] == [
        ("first", True),
        ("second", False),
    ]


def test_nothing_to_serve_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no models"):
        open_catalog(settings_for(tmp_path))
    with pytest.raises(SettingsError, match="not a folder"):
        open_catalog(settings_for(tmp_path / "missing"))


def test_the_hash_is_that_of_the_file(models_dir: Path) -> None:
    import hashlib

    path = models_dir / "untrained-classify.safetensors"
    backend = TorchBackend.open(path, device="cpu")
    assert backend.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_an_error_only_when_asked_for() -> None:
    assert select_device("auto") == "cpu"
    with pytest.raises(ValueError, match="no CUDA device"):
        select_device("cuda")
