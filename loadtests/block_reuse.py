"""Does a writer of device memory wait for those who still read what was there before?

The allocator hands a freed block out again at once on the stream that freed it. That is right for
work that keeps to the stream: kernels that still read the block come first. A writer on a stream of
its own that waits for nobody overwrites what they are about to read.

Two writers with known answers show that the pattern tells one from the other: a fill on the same
stream must spoil nothing, a fill on another stream that does not wait must be caught.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

_BEFORE: Final = 99
_AFTER: Final = 7
# products of this size keep an H100 busy for some milliseconds, while the host goes on
_CHAIN_SIDE: Final = 4096
_CHAIN_LENGTH: Final = 8

Shape = tuple[int, int, int]
# takes the shape and the number of blocks to write; they come from the current stream's allocator
Writer = Callable[[Shape, int], list[Tensor]]


@dataclass(slots=True)
class ReuseCount:
    """What became of the reads of freed blocks.

    Attributes:
        reused: blocks that the writer was given.
        corrupt: reads that saw the writer's data.
    """

    rounds: int = 0
    reads: int = 0
    reused: int = 0
    corrupt: int = 0


class ReuseTest:
    """The same pattern for every writer.

    Args:
        chain_side: of the matrices whose products delay the reads.
    """

    def __init__(self, device: str = "cuda", *, chain_side: int = _CHAIN_SIDE) -> None:
        self._device = device
        self._weight = torch.randn(chain_side, chain_side, device=device).to(torch.float16)

    def run(
        self, write: Writer, shapes: Iterator[Shape], number: int, seconds: float
    ) -> ReuseCount:
        """Round after round; at least one."""
        count = ReuseCount()
        started = time.monotonic()
        while not count.rounds or time.monotonic() < started + seconds:
            self._round(count, write, next(shapes), number)
        return count

    def _round(self, count: ReuseCount, write: Writer, shape: Shape, number: int) -> None:
        self._synchronise()
        # blocks of exactly the size of those to come
        victims = [
            torch.full(shape, _BEFORE, dtype=torch.uint8, device=self._device)
            for _ in range(number)
        ]
        for _ in range(_CHAIN_LENGTH):  # the reads below come late
            self._weight = (self._weight @ self._weight).clamp_(-1, 1)
        reads = [victim.to(torch.int32).sum() for victim in victims]
        addresses = {victim.data_ptr() for victim in victims}
        wanted = _BEFORE * victims[0].numel()
        del victims
        written = write(shape, number)
        self._synchronise()
        count.rounds += 1
        count.reads += number
        count.reused += sum(block.data_ptr() in addresses for block in written)
        count.corrupt += sum(int(read.item() != wanted) for read in reads)

    def _synchronise(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def write_in_order(shape: Shape, number: int, device: str = "cuda") -> list[Tensor]:
    """An ordinary fill on the current stream."""
    return [torch.full(shape, _AFTER, dtype=torch.uint8, device=device) for _ in range(number)]


class UnorderedWriter:
    """Fills blocks of the current stream on another one, and waits for nobody: a known fault."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def __call__(self, shape: Shape, number: int) -> list[Tensor]:
        blocks = [torch.empty(shape, dtype=torch.uint8, device="cuda") for _ in range(number)]
        with torch.cuda.stream(self._stream):
            for block in blocks:
                block.fill_(_AFTER)
        return blocks


def failed_controls(in_order: ReuseCount, unordered: ReuseCount) -> list[str]:
    """Why the test proves nothing; empty when it does."""
    failed = []
    if in_order.corrupt:
        failed.append(f"{in_order.corrupt} reads corrupt after writes on the same stream")
    if not in_order.reused:
        failed.append("no block was reused by writes on the same stream")
    if not unordered.corrupt:
        failed.append("unordered writes on another stream were not noticed")
    return failed
