"""Memory that batches pass through on their way to the device, and who waits for whom.

A batch is copied on a stream of its own while the one before still computes. Three marks keep the
two from overtaking each other: the computing stream waits for the copy into the slot; the memory is
given up only after what reads it; and a slot is written again only after its last reader is done.

This goes on while another thread captures a graph: the capture forbids certain calls to its own
thread only (`capture_error_mode="thread_local"`), torch's allocators put into the graph's pool only
what is allocated on the stream that is captured, and no call here waits for the whole device.
"""

from collections import deque
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# one batch computes, one is prepared; what comes on top of it is not kept
_KEPT_SLOTS: Final = 2


class Mark(Protocol):
    """A place in a stream."""

    def synchronize(self) -> None:
        """Wait until the stream has passed it."""
        ...


class Lane(Protocol):
    """How bytes reach the device."""

    def allocate(self, nbytes: int) -> tuple[Tensor, Tensor]:
        """(nbytes,) uint8 on the host and on the device; without a device twice the same."""
        ...

    def send(self, host: Tensor, out: Tensor) -> Mark:
        """Begin to copy `host` to `out`; the mark is passed when it is done."""
        ...

    def receive(self, sent: Mark, out: Tensor) -> None:
        """What is launched from here on finds the bytes in `out`; device thread only."""
        ...

    def mark(self) -> Mark:
        """Passed when all that has been launched is done; device thread only."""
        ...


class Slots:
    """Slots of one model: taken by the thread that stages, given back by the one that computes.

    There is always one to be had. A slot that is not given back, because its batch failed or was
    never computed, is left to torch's allocators, which know what still uses it.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._free: deque[Slot] = deque()

    def take(self, nbytes: int) -> "Slot":
        """Room for a batch; waits until the last batch in it has been read."""
        # the one given back first is the one most likely to be free
        slot = self._free.popleft() if self._free else Slot(self._lane, self)
        slot.reserve(nbytes)
        return slot

    def give_back(self, slot: "Slot") -> None:
        """To be taken again."""
        if len(self._free) < _KEPT_SLOTS:
            self._free.append(slot)


class Slot:
    """One batch as a run of bytes: filled, sent, read, released, in this order."""

    def __init__(self, lane: Lane, owner: Slots) -> None:
        self._lane = lane
        self._owner = owner
        self._host = self._device = torch.empty(0, dtype=torch.uint8)
        self._nbytes = 0
        self._sent: Mark | None = None
        self._read: Mark | None = None

    def reserve(self, nbytes: int) -> None:
        """Make it `nbytes` large; see `Slots.take`."""
        if self._read is not None:
            self._read.synchronize()
        self._nbytes, self._sent, self._read = nbytes, None, None
        if nbytes > self._host.numel():
            self._host, self._device = self._lane.allocate(max(nbytes, 2 * self._host.numel()))

    @property
    def host(self) -> Tensor:
        """(nbytes,) uint8, to be filled; starts on 16 bytes."""
        return self._host[: self._nbytes]

    @property
    def array(self) -> NDArray[np.uint8]:
        """`host` for numpy."""
        return self.host.numpy()

    def send(self) -> None:
        """Begin to copy; returns before it is done."""
        self._sent = self._lane.send(self.host, self._device[: self._nbytes])

    def receive(self) -> Tensor:
        """(nbytes,) uint8 on the device, once the computing stream gets there.

        Raises:
            RuntimeError: nothing was sent, or it was released.
        """
        if self._sent is None:
            raise RuntimeError("a slot is read once, after it was sent")
        received = self._device[: self._nbytes]
        self._lane.receive(self._sent, received)
        return received

    def release(self) -> None:
        """To be called after the last launch that reads the bytes."""
        self._sent, self._read = None, self._lane.mark()
        self._owner.give_back(self)


def make_lane(device: torch.device) -> Lane:
    """A copy stream on a CUDA device; elsewhere host and device are the same memory."""
    return _CopyStream(device) if device.type == "cuda" else _SharedMemory()


class _CopyStream:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        # torch hands out 32 streams in turn, those of high priority apart from the others: a copy
        # on the stream that is being captured would become a part of the graph
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def allocate(self, nbytes: int) -> tuple[Tensor, Tensor]:
        with torch.cuda.stream(self._stream):
            host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            return host, torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def send(self, host: Tensor, out: Tensor) -> Mark:
        with torch.cuda.stream(self._stream):
            out.copy_(host, non_blocking=True)
            sent: Mark = self._stream.record_event()
            return sent

    def receive(self, sent: Any, out: Tensor) -> None:
        current = torch.cuda.current_stream(self._device)
        current.wait_event(sent)
        # the memory belongs to the copy stream, where it would be reused at once if it were freed
        out.record_stream(current)

    def mark(self) -> Mark:
        mark: Mark = torch.cuda.current_stream(self._device).record_event()
        return mark


class _Passed:
    def synchronize(self) -> None:
        pass


class _SharedMemory:
    def allocate(self, nbytes: int) -> tuple[Tensor, Tensor]:
        host = torch.empty(nbytes, dtype=torch.uint8)
        return host, host

    def send(self, host: Tensor, out: Tensor) -> Mark:
        return _Passed()

    def receive(self, sent: Mark, out: Tensor) -> None:
        pass

    def mark(self) -> Mark:
        return _Passed()
