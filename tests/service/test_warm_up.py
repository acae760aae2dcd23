"""What a model does before it may answer."""

import time
from typing import Any

import pytest

from model.config import TaskName
from service.backends.stub import StubBackend
from service.engine.device import DeviceThread
from service.engine.warm_up import warm_up
from service.pool import CpuPool
from service.setting_groups import StubSettings

pytestmark = pytest.mark.anyio
_IMAGE_S = 0.002


class FilledUp(StubBackend):
    """Computes batches of certain sizes, each image in the same time, the first batch slowly."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__(TaskName.CLASSIFY, StubSettings(batch_ms=0.0))
        self.warm_up_batches = sizes
        self.made_ready: list[int] = []
        self.computed: list[int] = []

    @property
    def graph_count(self) -> int:
        return len(self.made_ready)

    def warm_up(self, batch_size: int) -> None:
        self.made_ready.append(batch_size)

    def infer(self, staged: Any) -> list[Any]:
        size = len(staged.images)
        is_first = size not in self.computed
        self.computed.append(size)
        time.sleep(_IMAGE_S * size + 0.1 * is_first)
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


async def test_the_time_of_each_batch_size_is_learned(device: DeviceThread) -> None:
    backend = FilledUp((16, 4, 1))
    learned = await warmed(backend, device, cap=8)
    assert backend.made_ready == [4, 1], "no batch has sixteen"
    assert learned.keys() == {4, 1}
    for size, seconds in learned.items():
        assert _IMAGE_S * size <= seconds < 0.1, "the first, slow one does not count"


async def test_a_single_size_needs_no_time(device: DeviceThread) -> None:
    backend = FilledUp((4,))
    assert await warmed(backend, device, cap=8) == {}
    assert backend.computed == [1]
