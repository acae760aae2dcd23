"""A compiled predictor that computes on the CPU, and fails where a test wants it to."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model.compiled.predictor import CompileOptions, WarmUpReport
from model.predictor import Predictor


class FakeGpu:
    """What all fake predictors of a test have in common.

    Attributes:
        options: given to each model that was loaded.
        warmed: model and batch size of each warm-up.
        on_stage: called with each batch that is staged, may raise.
        on_infer: called with each batch, may raise.
        on_warm_up: called with each batch size; returns why the capture failed, if it did.
        num_emptied: how often torch's reserve was given back.
        is_broken: whether every call to CUDA fails from now on.
    """

    def __init__(self) -> None:
        self.options: list[CompileOptions] = []
        self.warmed: list[tuple[str, int]] = []
        self.on_stage: Callable[[Sequence[Any]], None] = lambda batch: None
        self.on_infer: Callable[[Sequence[Any]], None] = lambda batch: None
        self.on_warm_up: Callable[[int], str | None] = lambda size: None
        self.num_emptied = 0
        self.is_broken = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As the only GPU of this machine, which suits Triton."""
        monkeypatch.setattr("service.backends.selection.select_device", self._select)
        monkeypatch.setattr("model.compiled.errors.check_gpu", lambda device: None)
        monkeypatch.setattr("model.compiled.predictor.CompiledPredictor", self)
        monkeypatch.setattr(torch.cuda, "empty_cache", self._empty_cache)
        monkeypatch.setattr(torch.cuda, "synchronize", self._synchronize)

    def _select(self, wanted: str) -> str:
        return "cpu" if wanted == "cpu" else "cuda:0"

    def _empty_cache(self) -> None:
        self.num_emptied += 1

    def _synchronize(self) -> None:
        if self.is_broken:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def load(self, path: Path, *, device: str, options: CompileOptions) -> "FakePredictor":
        assert device == "cuda:0"
        self.options.append(options)
        return FakePredictor(self, Predictor.load(path), options)


class FakePredictor:
    """The part of `CompiledPredictor` that the service uses."""

    def __init__(self, gpu: FakeGpu, inner: Predictor, options: CompileOptions) -> None:
        self._gpu, self._inner = gpu, inner
        self.spec, self.dtype = inner.spec, options.dtype
        self.prepare, self.finish = inner.prepare, inner.finish
        self.graph_count = 0

    def warm_up(self, batch_sizes: Sequence[int]) -> WarmUpReport:
        (size,) = batch_sizes
        self._gpu.warmed.append((self.spec.name, size))
        assert threading.current_thread().name == "smserve-device"
        reason = self._gpu.on_warm_up(size)
        if reason is not None:
            return WarmUpReport(0.1, self.graph_count, (((size, 64, 64), reason),))
        self.graph_count += 1
        return WarmUpReport(0.1, self.graph_count, ())

    def stage(
        self, batch: Sequence[Any], params: Sequence[Any]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        self._gpu.on_stage(batch)
        return batch, params

    def infer_staged(self, staged: tuple[Sequence[Any], Sequence[Any]]) -> list[Any]:
        batch, params = staged
        self._gpu.on_infer(batch)
        if all(one is batch[0] for one in batch):  # the same picture over and over: to measure time
            return list(self._inner.infer(batch[:1], params[:1])) * len(batch)
        return self._inner.infer(batch, params)
