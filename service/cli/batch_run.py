"""Many pictures through one model: decoding and finishing in threads while the device works."""

import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.results import Params, Result

if TYPE_CHECKING:
    from service.backends.base import Backend, PreparedImage

# what a damaged, unreadable or hostile file, a full disk or an exhausted device raise
_ITEM_ERRORS = (ValueError, OSError, RuntimeError, MemoryError)

ItemT = TypeVar("ItemT")
ItemT_contra = TypeVar("ItemT_contra", contravariant=True)
OutT = TypeVar("OutT")
OutT_co = TypeVar("OutT_co", covariant=True)


class Finish(Protocol[ItemT_contra, OutT_co]):
    """Makes what is wanted of one picture's result; called on any thread."""

    def __call__(
        self,
        item: ItemT_contra,
        result: Result,
        original_hw: tuple[int, int],
        stage_ms: dict[str, float],
    ) -> OutT_co: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRunOptions:
    """How to run.

    Attributes:
        batch_size: most images in one run of the device; all of one shape.
        num_threads: that decode and finish.
    """

    params: Params
    batch_size: int
    num_threads: int


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ItemT, OutT]):
    """What became of one picture.

    Attributes:
        cause: why there is no output; None where there is one.
        is_readable: False when the error came before the network: the file is at fault.
    """

    item: ItemT
    output: OutT | None
    cause: Exception | None
    is_readable: bool

    @property
    def error(self) -> str | None:
        """The cause in one line."""
        return None if self.cause is None else _reason(self.cause)


@dataclass(slots=True)
class _Job(Generic[ItemT, OutT]):
    """One picture under way. `decoding`, then `prepared`, then `finishing`, or `cause`."""

    item: ItemT
    group: Hashable
    decoding: "Future[tuple[PreparedImage, float]]"
    prepared: "PreparedImage | None" = None
    finishing: "Future[OutT] | None" = None
    cause: Exception | None = None
    stage_ms: dict[str, float] = field(default_factory=dict)

    @property
    def is_decoding(self) -> bool:
        return self.prepared is None and self.cause is None


def _no_group(item: Any) -> Hashable:
    return None


class BatchRun(Generic[ItemT, OutT]):
    """One pass over pictures.

    At most `2 * batch_size + num_threads` pictures are under way, so memory does not grow with
    their number. A decoded picture is let go as soon as the network's input is made of it.

    Which pictures share a batch depends on their order, their groups and their shapes, never on
    which thread was faster: the same pictures give the same batches, also when those of earlier
    groups are left out.
    """

    def __init__(
        self,
        backend: "Backend",
        options: BatchRunOptions,
        *,
        read: Callable[[ItemT], NDArray[np.uint8]],
        finish: Finish[ItemT, OutT],
        group: Callable[[ItemT], Hashable] = _no_group,
    ) -> None:
        """Prepare a pass.

        Args:
            read: (H, W, 3) uint8 pixels of an item; called on any thread.
            group: pictures of different groups never share a batch.
        """
        self._backend = backend
        self._options = options
        self._read, self._finish_item, self._group = read, finish, group
        self._window: deque[_Job[ItemT, OutT]] = deque()
        self._max_window = 2 * options.batch_size + options.num_threads
        self._pool = ThreadPoolExecutor(options.num_threads, thread_name_prefix="picture")

    def run(self, items: Iterable[ItemT]) -> Generator[Outcome[ItemT, OutT], None, None]:
        """Outcomes in the order of the items; once only.

        The device is used by the calling thread only. A picture that fails is answered with its
        error; the others go on.
        """
        waiting = iter(items)
        try:
            self._admit(waiting)
            while self._window:
                yield from self._advance()
                self._admit(waiting)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _admit(self, waiting: Iterator[ItemT]) -> None:
        while len(self._window) < self._max_window:
            try:
                item = next(waiting)
            except StopIteration:
                return
            decoding = self._pool.submit(self._decode, item)
            self._window.append(_Job(item, self._group(item), decoding))

    def _advance(self) -> Iterator[Outcome[ItemT, OutT]]:
        """One step: run the device, hand out the oldest answer, or wait for a decoder."""
        oldest = self._window[0]
        self._collect_decoded()
        groups = self._groups()
        full = next((group for group in groups if len(group) >= self._options.batch_size), None)
        if full is not None:
            self._infer(full[: self._options.batch_size])
        elif oldest.cause is not None or oldest.finishing is not None:
            self._window.popleft()
            yield self._outcome(oldest)
        elif decoding := [job.decoding for job in self._window if job.is_decoding]:
            wait(decoding, return_when=FIRST_COMPLETED)
        else:
            # nothing more can join: the window is full, or the pictures are at their end
            self._infer(next(group for group in groups if oldest in group))

    def _decode(self, item: ItemT) -> "tuple[PreparedImage, float]":
        start = time.perf_counter()
        return self._backend.prepare(self._read(item)), _ms_since(start)

    def _collect_decoded(self) -> None:
        for job in self._window:
            if job.is_decoding and job.decoding.done():
                try:
                    job.prepared, job.stage_ms["decode"] = job.decoding.result()
                except _ITEM_ERRORS as exc:
                    job.cause = exc

    def _groups(self) -> list[list[_Job[ItemT, OutT]]]:
        """Jobs that wait for the device, by what may share a batch, oldest first.

        None that comes after one that is still being decoded: batches must not depend on luck.
        """
        groups: dict[Hashable, list[_Job[ItemT, OutT]]] = {}
        for job in self._window:
            if job.is_decoding:
                break
            if job.prepared is not None and job.finishing is None and job.cause is None:
                groups.setdefault((job.group, job.prepared.shape), []).append(job)
        return list(groups.values())

    def _infer(self, jobs: Sequence[_Job[ItemT, OutT]]) -> None:
        batch = [job.prepared for job in jobs if job.prepared is not None]
        start = time.perf_counter()
        try:
            staged = self._backend.stage(batch, [self._options.params] * len(batch))
            raws = self._backend.infer(staged)
        except (ValueError, RuntimeError, MemoryError) as exc:
            if len(jobs) == 1:
                jobs[0].cause = exc
                return
            # too large together, or one of them cannot be computed: alone each has its chance
            for job in jobs:
                self._infer([job])
            return
        infer_ms = _ms_since(start)
        for job, raw in zip(jobs, raws, strict=True):
            job.stage_ms["infer"] = infer_ms
            job.finishing = self._pool.submit(self._finish, job, raw)

    def _finish(self, job: _Job[ItemT, OutT], raw: Any) -> OutT:
        if job.prepared is None:
            raise ValueError("a picture without input cannot have a result")
        start = time.perf_counter()
        result = self._backend.finish(raw, job.prepared)
        job.stage_ms["postprocess"] = _ms_since(start)
        return self._finish_item(job.item, result, job.prepared.original_hw, job.stage_ms)

    def _outcome(self, job: _Job[ItemT, OutT]) -> Outcome[ItemT, OutT]:
        if job.finishing is not None:
            try:
                return Outcome(job.item, job.finishing.result(), None, True)
            except _ITEM_ERRORS as exc:
                job.cause = exc
        return Outcome(job.item, None, job.cause, job.prepared is not None)


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return (str(exc) or type(exc).__name__).splitlines()[0]
