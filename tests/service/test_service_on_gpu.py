"""The whole service with the demo models on a GPU, against the same service on the CPU."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from service.settings import Settings
from tests.service.running import Running, running_service

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SAMPLES = Path(__file__).parents[2] / "demo/samples"
PHOTOS = ("cat.jpg", "cows.jpg", "crab.jpg", "macaw.jpg", "machu-picchu.jpg")
TASKS = ("classify", "detect", "segment")


async def ask(running: Running, task: str, photos: Sequence[str]) -> list[dict[str, Any]]:
    """Answers to all photographs, asked at the same time."""

    async def one(name: str) -> dict[str, Any]:
        response = await running.client.post(
            f"/{task}",
            content=(SAMPLES / name).read_bytes(),
            headers={"content-type": "image/jpeg"},
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    return list(await asyncio.gather(*(one(name) for name in photos)))


@pytest.mark.timeout(280)
async def test_it_answers_like_the_cpu() -> None:
    gpu = Settings(device="cuda", gpu={"warm_up_batches": (1, 4)})
    found: dict[str, list[dict[str, Any]]] = {}
    async with running_service(gpu, ready_s=240) as running:
        listing = (await running.client.get("/models")).json()["models"]
        assert [one["backend"] for one in listing] == ["triton"] * len(listing)
        for task in TASKS:
            found[task] = await ask(running, task, PHOTOS)
        metrics = (await running.client.get("/metrics")).text
    assert "smserve" in metrics
    async with running_service(Settings(device="cpu"), ready_s=240) as running:
        for task in TASKS:
            for got, wanted in zip(found[task], await ask(running, task, PHOTOS), strict=True):
                compare(task, got, wanted)


def compare(task: str, got: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Half precision may move what is nearly undecided, and nothing else."""
    assert got["image"] == wanted["image"]
    if task == "classify":
        best, other = wanted["predictions"][:2]
        if best["score"] - other["score"] > 0.02:
            assert got["predictions"][0]["label"] == best["label"]
        assert got["predictions"][0]["score"] == pytest.approx(best["score"], abs=0.02)
    elif task == "detect":
        sure = [own for own in wanted["predictions"] if own["score"] > 0.6]
        labels = [own["label"] for own in got["predictions"]]
        assert all(own["label"] in labels for own in sure)
    else:
        shares = {own["label"]: own["fraction"] for own in got["predictions"]}
        for own in wanted["predictions"]:
            assert shares.get(own["label"], 0.0) == pytest.approx(own["fraction"], abs=0.02)
