"""The cache of captured graphs; on the CPU with recordings that only pretend."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from model.compiled.errors import GraphCaptureError, UnsupportedGPUError, check_gpu
from model.compiled.graphs import GraphCache, _CudaRecorder, make_recorder

CPU = torch.device("cpu")


class FakeRecorder:
    """Records by running; remembers what was closed."""

    def __init__(self) -> None:
        self.closed: list[Any] = []

    def __call__(self, function: Callable[[], Any]) -> "FakeRecording":
        return FakeRecording(self, function())


class FakeRecording:
    def __init__(self, recorder: FakeRecorder, outputs: Any) -> None:
        self._recorder, self._outputs = recorder, outputs

    def replay(self) -> Any:
        return self._outputs

    def close(self) -> None:
        self._recorder.closed.append(self._outputs)


def test_on_the_cpu_a_replay_reads_the_inputs_anew() -> None:
    cache: GraphCache[str, torch.Tensor, torch.Tensor] = GraphCache(2, make_recorder(CPU))
    x = torch.zeros(3)
    cache.capture("double", lambda own: own * 2, x)
    assert cache.inputs("double") is x
    x.fill_(4)
    assert cache.replay("double").tolist() == [8, 8, 8]
    assert "double" in cache
    assert "other" not in cache


def test_the_one_replayed_longest_ago_is_dropped() -> None:
    recorder = FakeRecorder()
    cache: GraphCache[str, int, int] = GraphCache(2, recorder)
    cache.capture("a", lambda own: own + 1, 0)
    cache.capture("b", lambda own: own + 1, 10)
    assert cache.replay("a") == 1
    cache.capture("c", lambda own: own + 1, 20)
    assert (len(cache), cache.keys(), recorder.closed) == (2, ["a", "c"], [11])
    with pytest.raises(KeyError):
        cache.replay("b")
    with pytest.raises(KeyError):
        cache.inputs("b")


def test_a_second_capture_replaces_the_first() -> None:
    recorder = FakeRecorder()
    cache: GraphCache[str, int, int] = GraphCache(2, recorder)
    cache.capture("other", lambda own: own, 0)
    cache.capture("a", lambda own: own, 1)
    cache.capture("a", lambda own: own, 2)
    assert (cache.keys(), recorder.closed) == (["other", "a"], [1])
    assert (cache.replay("a"), cache.inputs("a")) == (2, 2)


def test_a_failed_capture_leaves_the_others() -> None:
    cache: GraphCache[str, int, int] = GraphCache(3, FakeRecorder())
    cache.capture("good", lambda own: own, 5)

    def fail(own: int) -> int:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(GraphCaptureError, match="could not record bad: no room") as caught:
        cache.capture("bad", fail, 1)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert cache.keys() == ["good"]
    assert cache.replay("good") == 5
    cache.capture("bad", lambda own: own, 7)
    assert cache.replay("bad") == 7


def test_needs_room_for_one() -> None:
    with pytest.raises(ValueError, match="max_graphs=0"):
        GraphCache(0, FakeRecorder())


class FakeCuda:
    """What torch 2.11 does with pools and streams, as far as a recorder can tell."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.current = FakeStream("outer")
        self.pools = 0
        self.of_device: list[int] = []
        self.of_pinned: list[int] = []
        self.entered: list[int] = []
        for name in ("set_stream", "graph_pool_handle", "graph"):
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "Stream", lambda device: FakeStream("own"))
        patch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        patch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        patch.setattr(torch.cuda, "stream", nullcontext)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", self.end, raising=False)

    def set_stream(self, stream: "FakeStream") -> None:
        self.current = stream

    def graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    @contextmanager
    def graph(
        self, graph: object, *, pool: int, stream: "FakeStream", **_: object
    ) -> Iterator[None]:
        outer, self.current = self.current, stream
        for own in (self.of_device, self.of_pinned):
            if pool in own:
                raise RuntimeError("already recording")
            own.append(pool)
        self.entered.append(pool)
        try:
            yield
        except PermissionError as exc:
            raise RuntimeError("spoilt") from exc  # nobody is told, and the stream stays
        except BaseException:
            self._end(pool, outer)
            raise
        self._end(pool, outer)

    def end(self, index: int | None, pool: int) -> None:
        if pool not in self.of_device:
            raise RuntimeError("not recording")
        self.of_device.remove(pool)

    def _end(self, pool: int, outer: "FakeStream") -> None:
        self.of_device.remove(pool)
        self.of_pinned.remove(pool)
        self.current = outer


class FakeStream:
    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: "FakeStream") -> None:
        pass


class FakeGraph:
    def reset(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "pools"),
    [(torch.OutOfMemoryError, [1, 1, 1]), (PermissionError, [1, 1, 2, 2])],
    ids=["an error", "a forbidden call"],
)
def test_a_spoilt_capture_costs_the_pool_only(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], pools: list[int]
) -> None:
    cuda = FakeCuda(monkeypatch)
    recorder = _CudaRecorder(CPU)
    is_warm = False

    def fail() -> None:
        nonlocal is_warm
        if is_warm:
            raise error("not now")
        is_warm = True

    with pytest.raises((error, RuntimeError)):
        recorder(fail)
    assert cuda.current.name == "outer"
    recorder(lambda: 5)
    assert cuda.entered == pools  # of them the first of each pool is the recorder's own
    assert cuda.of_device == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_share_memory_and_survive_a_failure() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    stream = torch.cuda.current_stream(device)
    cache: GraphCache[Any, torch.Tensor, torch.Tensor] = GraphCache(2, make_recorder(device))
    for size in (512, 256):
        x = torch.ones(size, size, device=device)
        cache.capture(size, lambda own: (own @ own).sum(), x)

    def read(own: torch.Tensor) -> torch.Tensor:
        return own * own.sum().item()

    with pytest.raises(GraphCaptureError):
        # the warm-up reads the value, the capture cannot
        cache.capture("reads", read, torch.ones(4, device=device))
    assert cache.keys() == [256]  # room was made for the one that failed
    assert torch.cuda.current_stream(device) == stream
    cache.capture(512, lambda own: (own @ own).sum(), torch.ones(512, 512, device=device))
    for size in (512, 256, 512):
        cache.inputs(size).fill_(2)
        assert cache.replay(size).item() == 4 * size**3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_only_cuda_graph_may_be_replaced_while_its_answer_is_in_use() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    cache: GraphCache[int, torch.Tensor, torch.Tensor] = GraphCache(1, make_recorder(device))
    kept = []
    for key in range(3):
        cache.capture(key, lambda own: own + 1, torch.full((1000,), float(key), device=device))
        kept.append(cache.replay(key))
        assert kept[-1].sum().item() == 1000 * (key + 1)


class TestCheckGpu:
    @pytest.fixture(autouse=True)
    def _gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")

    def test_a_good_one(self) -> None:
        check_gpu("cuda:0")

    def test_the_cpu(self) -> None:
        with pytest.raises(UnsupportedGPUError, match="the device is cpu") as caught:
            check_gpu("cpu")
        assert "backend=torch works" in str(caught.value)

    def test_no_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UnsupportedGPUError, match=r"finds no CUDA device.*backend=torch works"):
            check_gpu("cuda:0")

    def test_an_old_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        expected = r"cuda:0 is Tesla T4 with compute capability 7\.5; .*8\.0 or later.*torch works"
        with pytest.raises(UnsupportedGPUError, match=expected):
            check_gpu("cuda:0")

    def test_no_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(name: str) -> None:
            raise ImportError(f"No module named {name!r}")

        monkeypatch.setattr("model.compiled.errors.import_module", fail)
        with pytest.raises(UnsupportedGPUError, match=r"No module named 'triton'.*torch works"):
            check_gpu(torch.device("cuda", 0))
