"""Where pictures are decoded."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.config import InputConfig, ModelSpec, TaskName
from model.images import ImageDecodeError, decode_rgb
from service.engine.intake import Intake
from service.pool import CpuPool
from service.settings import Settings
from service.telemetry import Metrics
from tests.service.pictures import jpeg, png
from tests.service.running import running_apart, until

pytestmark = pytest.mark.anyio
SPEC = ModelSpec(
    name="m",
    task=TaskName.CLASSIFY,
    variant="demo",
    class_names=("a",),
    input=InputConfig(short=8, crop=8),
    demo=True,
)


class Bench:
    """An intake, and what became of its pictures."""

    def __init__(self) -> None:
        self.pool = CpuPool(1)
        self.intake = Intake(Settings(_env_file=None), self.pool, Metrics(), max_images=10)
        self.threads: list[str] = []
        self.num_released = 0

    def place(self, rgb: NDArray[np.uint8]) -> tuple[int, ...]:
        self.threads.append(threading.current_thread().name)
        return rgb.shape

    def release(self) -> None:
        self.num_released += 1

    async def decode(self, data: bytes, *, at_once: bool = True) -> tuple[int, ...]:
        with self.intake.admitted(SPEC, "", retry_after_s=lambda: 1):
            return await self.intake.decode(data, self.place, release=self.release, at_once=at_once)


async def test_a_quick_picture_needs_no_thread() -> None:
    bench = Bench()
    assert await bench.decode(jpeg(64, 48)) == (48, 64, 3)
    assert bench.threads == [threading.current_thread().name]
    assert not bench.num_released
    bench.pool.close()


@pytest.mark.parametrize(
    ("data", "at_once"),
    [(png(), True), (jpeg(progressive=True), True), (jpeg(), False)],
    ids=["another kind", "progressive", "not wanted"],
)
async def test_others_go_to_the_pool(data: bytes, at_once: bool) -> None:
    bench = Bench()
    await bench.decode(data, at_once=at_once)
    assert bench.threads[0].startswith("smserve-pool")
    bench.pool.close()


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that decoded, in order."""
    names: list[str] = []

    def decode(*args: Any, **options: Any) -> NDArray[np.uint8]:
        names.append(threading.current_thread().name)
        return decode_rgb(*args, **options)

    monkeypatch.setattr("service.engine.intake.decode_rgb", decode)
    return names


@pytest.mark.parametrize(
    ("cores", "files", "clients", "is_here"),
    [(1, 1, 4, True), (2, 1, 4, False), (2, 1, 1, True), (1, 3, 1, False)],
    ids=["fronts fill the cores", "cores are free", "alone", "several in a request"],
)
async def test_what_a_front_end_decodes_itself(
    monkeypatch: pytest.MonkeyPatch,
    decoders: list[str],
    cores: int,
    files: int,
    clients: int,
    is_here: bool,
) -> None:
    monkeypatch.setattr("service.processes.remote.usable_cores", lambda: cores)
    pictures = [("image", jpeg(64, 48))] * files
    settings = Settings(backend="stub", pool_size=2)
    async with running_apart(settings) as running:
        # all clients are there at once
        with running.held_device() as release:
            posts = [
                asyncio.create_task(running.client.post("/classify", files=pictures))
                for _ in range(clients)
            ]
            await until(lambda: len(decoders) == files * clients)
            release()
            answers = await asyncio.gather(*posts)
    assert [answer.status_code for answer in answers] == [200] * clients
    assert len(decoders) == files * clients
    here = [name == threading.current_thread().name for name in decoders]
    assert all(here) if is_here else not all(here)


@pytest.mark.parametrize("data", [jpeg()[:-200], b"nothing"])
async def test_what_cannot_be_decoded_is_given_back_once(data: bytes) -> None:
    bench = Bench()
    with pytest.raises(ImageDecodeError):
        await bench.decode(data)
    assert bench.num_released == 1
    bench.pool.close()


async def test_what_cannot_be_placed_is_given_back_once() -> None:
    bench = Bench()

    def fail(rgb: NDArray[np.uint8]) -> tuple[int, ...]:
        raise ValueError("no room")

    bench.place = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="no room"):
        await bench.decode(jpeg())
    assert bench.num_released == 1
    bench.pool.close()
