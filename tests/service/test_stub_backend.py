"""The faults that load tests and soak tests ask the stub for."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from model.config import TaskName
from model.results import ClassifyParams
from service.backends.stub import StubBackend
from service.engine.device import DeviceOutOfMemoryError
from service.setting_groups import StubSettings
from tests.service.conftest import Start
from tests.service.pictures import jpeg

PICTURE = np.full((20, 30, 3), 90, dtype=np.uint8)


def backend(**settings: Any) -> StubBackend:
    return StubBackend(TaskName.CLASSIFY, StubSettings(**settings))


def infer(stub: StubBackend, images: int) -> int:
    batch = [stub.prepare(PICTURE)] * images
    return len(stub.infer(stub.stage(batch, [ClassifyParams()] * images)))


def test_larger_batches_find_no_memory() -> None:
    stub = backend(memory_images=3)
    assert infer(stub, 3) == 3
    with pytest.raises(DeviceOutOfMemoryError, match="more than 3 images"):
        infer(stub, 4)
    assert infer(backend(), 50) == 50


def test_every_image_leaves_memory_behind() -> None:
    stub = backend(leak_bytes=1000)
    infer(stub, 3)
    infer(stub, 2)
    assert sum(len(block) for block in stub._leaked) == 5000
    tight = backend()
    infer(tight, 3)
    assert sum(len(block) for block in tight._leaked) == 0


def test_the_batch_after_so_many_hangs() -> None:
    stub = backend(hang_after_batches=2)
    infer(stub, 1)
    infer(stub, 1)
    thread = threading.Thread(target=infer, args=(stub, 1), daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()


@pytest.mark.anyio
async def test_the_service_learns_how_much_fits(start: Start) -> None:
    labels = {"task": "classify", "model": "stub-classify"}
    async with start(stub={"batch_ms": 5, "memory_images": 3}, batch={"max_images": 8}) as running:
        failures = []
        for _ in range(2):
            posts = [running.client.post("/classify", content=jpeg()) for _ in range(30)]
            assert {answer.status_code for answer in await asyncio.gather(*posts)} == {200}
            failures.append(running.metric("smserve_device_out_of_memory_total", **labels))
        assert failures[0] > 0
        assert failures[1] == failures[0], "no batch of the second round is too large"
