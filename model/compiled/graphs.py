"""Captured CUDA graphs: what a batch launches, recorded once for every size and then replayed."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from model.compiled.errors import GraphCaptureError

KeyT = TypeVar("KeyT", bound=Hashable)
InputsT = TypeVar("InputsT")
OutputsT = TypeVar("OutputsT")


class Recording(Protocol):
    """One recorded function."""

    def replay(self) -> Any:
        """Run it again on the inputs as they are now -> its outputs."""
        ...

    def close(self) -> None:
        """Give its memory back to the recorder."""
        ...


Recorder = Callable[[Callable[[], Any]], Recording]


@dataclass(slots=True)
class _Entry(Generic[InputsT]):
    inputs: InputsT
    recording: Recording


class GraphCache(Generic[KeyT, InputsT, OutputsT]):
    """Recorded functions by key; belongs to the thread that owns the device.

    What a replay returns is overwritten by the next replay of any key, since all recordings share
    their memory: copy it away on the same stream first.
    """

    def __init__(self, max_graphs: int, recorder: Recorder) -> None:
        """Empty.

        Args:
            max_graphs: more than these and the one replayed longest ago is dropped.
            recorder: of `make_recorder`.

        Raises:
            ValueError: max_graphs is less than 1.
        """
        if max_graphs < 1:
            raise ValueError(f"at least one graph is needed, got max_graphs={max_graphs}")
        self._max_graphs = max_graphs
        self._recorder = recorder
        self._entries: OrderedDict[KeyT, _Entry[InputsT]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def keys(self) -> list[KeyT]:
        """The one that would be dropped next comes first."""
        return list(self._entries)

    def capture(self, key: KeyT, function: Callable[[InputsT], OutputsT], inputs: InputsT) -> None:
        """Record `function(inputs)`; a recording under the same key is replaced.

        Args:
            function: same launches whatever the values; see `torch.cuda.graph`.
            inputs: kept, and read anew by every replay.

        Raises:
            GraphCaptureError: it failed; all other recordings still work.
        """
        if key in self._entries:
            self._drop(key)
        while len(self._entries) >= self._max_graphs:
            self._drop(next(iter(self._entries)))
        try:
            recording = self._recorder(lambda: function(inputs))
        except Exception as exc:
            raise GraphCaptureError(f"could not record {key}: {exc}") from exc
        self._entries[key] = _Entry(inputs, recording)

    def inputs(self, key: KeyT) -> InputsT:
        """What the recording reads.

        Raises:
            KeyError: not recorded.
        """
        return self._entries[key].inputs

    def replay(self, key: KeyT) -> OutputsT:
        """Run on the current stream; returns before it is done.

        Raises:
            KeyError: not recorded.
        """
        entry = self._entries[key]
        self._entries.move_to_end(key)
        outputs: OutputsT = entry.recording.replay()
        return outputs

    def _drop(self, key: KeyT) -> None:
        self._entries.pop(key).recording.close()


def make_recorder(device: torch.device) -> Recorder:
    """CUDA graphs on a CUDA device; elsewhere replaying is running the function."""
    return _CudaRecorder(device) if device.type == "cuda" else _Direct


class _Direct:
    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def replay(self) -> Any:
        return self._function()

    def close(self) -> None:
        pass


class _CudaRecorder:
    """Captures on a stream of its own, always the same: the memory pool keeps blocks by stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._anchor: _CudaGraph | None = None
        self._spoilt: list[torch.cuda.CUDAGraph] = []  # torch goes on asking them what is theirs

    def __call__(self, function: Callable[[], Any]) -> "_CudaGraph":
        if self._anchor is None:
            self._start_pool()
        self._rehearse(function)
        return self._record(function)

    def _start_pool(self) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        # torch lets nobody into a pool again that all graphs have left while a tensor lives in it
        self._rehearse(self._make_anchor)
        self._anchor = self._record(self._make_anchor)

    def _make_anchor(self) -> torch.Tensor:
        return torch.zeros(1, device=self._device)

    def _rehearse(self, function: Callable[[], Any]) -> None:
        """Let kernels be compiled and libraries allocate, which a capture must not do."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            function()
        current.wait_stream(self._stream)

    def _record(self, function: Callable[[], Any]) -> "_CudaGraph":
        current = torch.cuda.current_stream(self._device)
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads may use pinned memory meanwhile, which the default mode forbids
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                outputs = function()
        except BaseException:
            torch.cuda.set_stream(current)  # torch does not when the capture is spoilt
            if _was_recording(self._device, self._pool):
                # the next one starts another pool; the graphs of this one live on
                self._anchor = None
                self._spoilt.append(graph)
            graph.reset()
            raise
        return _CudaGraph(graph, outputs, self._device)


def _was_recording(device: torch.device, pool: tuple[int, int]) -> bool:
    """Stop allocating in a pool; whether that had gone on after a capture that failed.

    When a forbidden call has spoilt the capture itself, torch up to 2.11 leaves before it tells its
    two allocators. That of the device can be told here, and must be: while it believes in a
    capture, it frees no memory that other streams have used. That of pinned memory cannot be told,
    and it lets no later capture into the pool.
    """
    try:
        torch._C._cuda_endAllocateToPool(device.index, pool)
    except RuntimeError:  # both allocators had been told
        return False
    return True


class _CudaGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: Any, device: torch.device) -> None:
        self._graph = graph
        self._outputs = outputs
        self._device = device

    def replay(self) -> Any:
        self._graph.replay()
        return self._outputs

    def close(self) -> None:
        # a replay may still be running on this memory
        torch.cuda.synchronize(self._device)
        self._outputs = None
        self._graph.reset()
