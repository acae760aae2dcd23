"""What a model does before it may answer."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from model.config import TaskName
from service.backends.stub import StubBackend
from service.engine.device import DeviceThread
from service.engine.warm_up import warm_up
from service.pool import CpuPool
from service.setting_groups import StubSettings

pytestmark = pytest.mark.anyio
_IMAGE_S = 0.25


class FilledUp(StubBackend):
    """Computes batches of certain sizes, each image in the same time, the first batch slowly.

    Attributes:
        now: seconds by its own clock, which no other work makes go faster.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__(TaskName.CLASSIFY, StubSettings(batch_ms=0.0))
        self.warm_up_batches = sizes
        self.made_ready: list[int] = []
        self.computed: list[int] = []
        self.now = 0.0

    @property
    def graph_count(self) -> int:
        return len(self.made_ready)

    def warm_up(self, batch_size: int) -> None:
        self.made_ready.append(batch_size)

    def infer(self, staged: Any) -> list[Any]:
        size = len(staged.images)
        is_first = size not in self.computed
        self.computed.append(size)
        self.now += _IMAGE_S * size + 100 * is_first
        return super().infer(staged)


@pytest.fixture
def device() -> DeviceThread:
    device = DeviceThread(lambda cause: None)
    device.start()
    return device


async def warmed(backend: FilledUp, device: DeviceThread, cap: int) -> dict[int, float]:
    """The time of each batch size that was learned."""
    pool, learned = CpuPool(1), {}

    def learn(shape: tuple[int, int], images: int, seconds: float) -> None:
        assert shape == (224, 224)
        learned[images] = seconds

    try:
        await warm_up(
            backend,
            pool=pool,
            device=device,
            batch_cap=lambda shape: cap,
            learn=learn,
            tell=lambda state: None,
        )
    finally:
        pool.close()
        await device.stop(timeout_s=5)
    return learned


async def test_the_time_of_each_batch_size_is_learned(
    device: DeviceThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FilledUp((16, 4, 1))
    clock = SimpleNamespace(monotonic=time.monotonic, perf_counter=lambda: backend.now)
    monkeypatch.setattr("service.engine.warm_up.time", clock)
    learned = await warmed(backend, device, cap=8)
    assert backend.made_ready == [4, 1], "no batch has sixteen"
    # the first, slow one does not count
    assert learned == {4: 4 * _IMAGE_S, 1: _IMAGE_S}


async def test_a_single_size_needs_no_time(device: DeviceThread) -> None:
    backend = FilledUp((4,))
    assert await warmed(backend, device, cap=8) == {}
    assert backend.computed == [1]
