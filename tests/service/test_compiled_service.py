"""The service around the real compiled model, its kernels run by Triton's interpreter."""

from pathlib import Path

import pytest
import torch

from model.checkpoint import build_network, save_model
from model.config import InputConfig, ModelSpec, TaskName
from service.backends.selection import Selection
from service.settings import Settings
from tests.model.compiled_cases import use_shallow_demo
from tests.service.pictures import photo
from tests.service.running import running_service

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled on this machine"),
]


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_shallow_demo(monkeypatch, (1, 1, 1, 1))
    spec = ModelSpec(
        name="small-picture",
        task=TaskName.CLASSIFY,
        variant="demo",
        class_names=("cat", "dog", "bird"),
        # the interpreter takes seconds for a picture of this size
        input=InputConfig(short=16, crop=16),
    )
    torch.manual_seed(0)
    save_model(tmp_path / "model.safetensors", build_network(spec).state_dict(), spec)
    return tmp_path


async def scores(settings: Settings, picture: bytes) -> tuple[str, dict[str, float]]:
    async with running_service(settings, ready_s=200) as running:
        response = await running.client.post("/classify", content=picture)
        assert response.status_code == 200, response.text
        (listed,) = (await running.client.get("/models")).json()["models"]
        found = {one["label"]: one["score"] for one in response.json()["predictions"]}
        return f"{listed['backend']} {listed['dtype']}", found


async def test_it_answers_as_the_service_on_the_cpu(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        models_dir=models_dir,
        demo_models=False,
        torch_threads=1,
        gpu={"warm_up_batches": [1]},
        timeouts={"request_ms": 120_000},
    )
    how, expected = await scores(settings, photo())
    assert how == "torch float32"
    monkeypatch.setattr("service.catalog.select_backend", lambda *_: Selection("triton", "cpu"))
    how, got = await scores(settings, photo())
    assert how == "triton float16"
    assert got == pytest.approx(expected, abs=2e-3)
