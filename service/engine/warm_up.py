"""What a model does before it may answer."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from model.results import DEFAULT_PARAMS
from service.backends.base import Backend, BatchWarmUp
from service.engine.device import DeviceOutOfMemoryError, DeviceThread
from service.pool import CpuPool

log = logging.getLogger(__name__)


async def warm_up(
    backend: Backend,
    *,
    pool: CpuPool,
    device: DeviceThread,
    batch_cap: Callable[[tuple[int, int]], int],
    learn: Callable[[tuple[int, int], int, float], None],
    tell: Callable[[str], None],
) -> float:
    """Every batch size that can occur, then one picture from end to end.

    A model that cannot do it must not become ready.

    Args:
        batch_cap: height and width of the network's input -> most images of a batch.
        learn: told height and width, and of each batch size the seconds it takes the device.
        tell: called with the state of things, for people.

    Returns:
        seconds it took.

    Raises:
        Exception: whatever the model raised.
    """
    spec, started = backend.spec, time.monotonic()
    tell(f"warming {spec.name}")
    # the proportions of most cameras
    rgb = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    prepared = await pool.run(backend.prepare, rgb)
    if isinstance(backend, BatchWarmUp):
        most = batch_cap(prepared.shape)
        sizes = [size for size in backend.warm_up_batches if size <= most]
        await _warm_batches(backend, spec.name, sizes, device, tell)
        for size in sizes if len(sizes) > 1 else ():
            seconds = await device.run(partial(_time_batch, backend, prepared, size))
            learn(prepared.shape, size, seconds)
    params = [DEFAULT_PARAMS[spec.task]]
    raw = await device.run(lambda: backend.infer(backend.stage([prepared], params)))
    await pool.run(backend.finish, raw[0], prepared)
    seconds = time.monotonic() - started
    log.info("model ready", extra={"model": spec.name, "seconds": round(seconds, 1)})
    return seconds


async def _warm_batches(
    backend: BatchWarmUp,
    name: str,
    sizes: Sequence[int],
    device: DeviceThread,
    tell: Callable[[str], None],
) -> None:
    for number, size in enumerate(sizes, 1):
        tell(f"warming {name}: {number} of {len(sizes)} batch sizes")
        try:
            await device.run(partial(backend.warm_up, size))
        except DeviceOutOfMemoryError as exc:
            raise DeviceOutOfMemoryError(
                f"{name} does not fit into GPU memory at {size} images a batch; lower "
                f"batch.max_images or gpu.warm_up_batches, or serve fewer models: {exc}"
            ) from exc


def _time_batch(backend: Backend, prepared: Any, size: int) -> float:
    """Seconds of a batch that is on the device; the better of two runs."""
    params = [DEFAULT_PARAMS[backend.spec.task]] * size
    runs = []
    for _ in range(2):
        staged = backend.stage([prepared] * size, params)
        started = time.perf_counter()
        backend.infer(staged)
        runs.append(time.perf_counter() - started)
    return min(runs)
