"""Many processes compose pictures into shared memory while one process trains on the GPU."""

import multiprocessing as mp
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from queue import Empty
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Sample = Mapping[str, NDArray[Any]]
SampleSource = Callable[[int], Iterator[Sample]]


@dataclass(frozen=True, slots=True)
class Field:
    """Shape and dtype of one array of a sample."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


class Feed:
    """Worker processes that fill slots of shared memory, each slot one sample.

    Args:
        source: called in each worker with its number; yields samples for ever. Must be picklable.
        fields: what a sample consists of.
        workers: processes; at least one.
        slots: samples that may wait to be taken.
    """

    def __init__(
        self, source: SampleSource, fields: Mapping[str, Field], *, workers: int, slots: int = 512
    ) -> None:
        context = mp.get_context("spawn")
        self.fields = dict(fields)
        self._stride = sum(field.nbytes for field in fields.values())
        self._memory = SharedMemory(create=True, size=self._stride * slots)
        self._free: Any = context.Queue()
        self._full: Any = context.Queue()
        for slot in range(slots):
            self._free.put(slot)
        self._context = context
        self._source = source
        self._started = 0
        self._allowed = 2 * workers
        self._processes = [self._start() for _ in range(workers)]

    def _start(self) -> Any:
        """One more worker, with a number and thus a seed of its own."""
        process = self._context.Process(
            target=_work,
            args=(
                self._source,
                self._started,
                self.fields,
                self._memory.name,
                self._free,
                self._full,
            ),
            daemon=True,
        )
        process.start()
        self._started += 1
        return process

    def take(self, limit: int, *, wait_s: float = 0.0) -> list[dict[str, NDArray[Any]]]:
        """Copies of up to `limit` finished samples; waits only for the first one.

        A worker that died is replaced; its traceback is on the standard error stream.

        Raises:
            RuntimeError: as many workers died as there are.
        """
        samples: list[dict[str, NDArray[Any]]] = []
        while len(samples) < limit:
            try:
                slot = (
                    self._full.get(timeout=wait_s)
                    if wait_s and not samples
                    else (self._full.get_nowait())
                )
            except Empty:
                break
            samples.append(
                {
                    name: view.copy()
                    for name, view in _views(self._memory, self.fields, self._stride, slot).items()
                }
            )
            self._free.put(slot)
        self._replace_the_dead()
        return samples

    def _replace_the_dead(self) -> None:
        for i, process in enumerate(self._processes):
            if process.exitcode is None:
                continue
            if self._started >= self._allowed:
                raise RuntimeError(
                    f"{self._started - len(self._processes) + 1} composing processes died, "
                    f"the last with exit code {process.exitcode}"
                )
            self._processes[i] = self._start()

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._memory.close()
        self._memory.unlink()


def _views(
    memory: SharedMemory, fields: Mapping[str, Field], stride: int, slot: int
) -> dict[str, NDArray[Any]]:
    views, offset = {}, slot * stride
    for name, field in fields.items():
        views[name] = np.ndarray(field.shape, field.dtype, buffer=memory.buf, offset=offset)
        offset += field.nbytes
    return views


def _work(
    source: SampleSource,
    number: int,
    fields: dict[str, Field],
    memory_name: str,
    free: Any,
    full: Any,
) -> None:
    # one composing process per core: libraries must not start threads of their own
    torch.set_num_threads(1)
    memory = SharedMemory(name=memory_name)
    stride = sum(field.nbytes for field in fields.values())
    for sample in source(number):
        slot = free.get()
        for name, view in _views(memory, fields, stride, slot).items():
            view[...] = sample[name]
        full.put(slot)


class Pool:
    """Samples kept on the device, replaced by fresh ones while training goes on."""

    def __init__(self, feed: Feed, capacity: int, device: torch.device, seed: int) -> None:
        self._feed = feed
        self._capacity = capacity
        self._tensors = {
            name: torch.zeros(
                (capacity, *field.shape), dtype=_torch_dtype(field.dtype), device=device
            )
            for name, field in feed.fields.items()
        }
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._device = device
        self.received = 0

    def __len__(self) -> int:
        return min(self.received, self._capacity)

    def refresh(self, limit: int = 256, *, wait_s: float = 0.0) -> None:
        """Move finished samples to the device, over the oldest ones."""
        samples = self._feed.take(limit, wait_s=wait_s)
        if not samples:
            return
        slots = torch.arange(self.received, self.received + len(samples)) % self._capacity
        for name, tensor in self._tensors.items():
            fresh = torch.from_numpy(np.stack([sample[name] for sample in samples]))
            tensor[slots.to(self._device)] = fresh.to(self._device, non_blocking=True)
        self.received += len(samples)

    def fill(self, count: int) -> None:
        """Wait until `count` samples are there."""
        while self.received < count:
            self.refresh(wait_s=5.0)

    def batch(self, size: int) -> dict[str, Tensor]:
        """`size` random samples, with replacement."""
        index = torch.randint(len(self), (size,), generator=self._generator, device=self._device)
        return {name: tensor[index] for name, tensor in self._tensors.items()}


def _torch_dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def default_workers() -> int:
    """One per core that this process may use, leaving one for the trainer."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
