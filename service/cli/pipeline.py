"""Many pictures through one model: decoding and drawing in threads while the device works."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from model.images import DecodeLimits, decode_rgb
from model.results import Params
from service.answers import AnswerOptions, build_answer
from service.cli.inputs import OverlayNames, Picture
from service.overlay import draw_overlay

if TYPE_CHECKING:
    from service.backends.base import Backend, PreparedImage

# what a damaged, unreadable or hostile file, a full disk or an exhausted device raise
_ITEM_ERRORS = (ValueError, OSError, RuntimeError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOptions:
    """How to run.

    Attributes:
        batch_size: most images in one run of the device; all of one shape.
        num_threads: that decode, post-process and draw.
        overlay_folder: drawings go here; None: none are made.
    """

    params: Params
    answer: AnswerOptions
    limits: DecodeLimits
    batch_size: int
    num_threads: int
    overlay_folder: Path | None


@dataclass(frozen=True, slots=True)
class PictureAnswer:
    """What became of one picture: one JSON line, or why there is none."""

    picture: Picture
    line: bytes | None
    error: str | None


@dataclass(slots=True)
class _Job:
    """One picture under way. `decoding`, then `prepared`, then `finishing`, or `error`."""

    picture: Picture
    decoding: "Future[tuple[PreparedImage, float]]"
    overlay_path: Path | None
    prepared: "PreparedImage | None" = None
    finishing: "Future[bytes] | None" = None
    error: str | None = None
    stage_ms: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """One pass over pictures.

    At most `2 * batch_size + num_threads` pictures are under way, so memory does not grow with
    their number. A decoded picture is let go as soon as the network's input is made of it;
    drawings read the file again.
    """

    def __init__(self, backend: "Backend", options: PipelineOptions) -> None:
        self._backend = backend
        self._options = options
        self._window: deque[_Job] = deque()
        self._max_window = 2 * options.batch_size + options.num_threads
        self._names = OverlayNames(options.overlay_folder) if options.overlay_folder else None
        self._pool = ThreadPoolExecutor(options.num_threads, thread_name_prefix="picture")

    def run(self, pictures: Iterable[Picture]) -> Iterator[PictureAnswer]:
        """Answers in the order of the pictures.

        The device is used by the calling thread only. A picture that fails is answered with its
        error; the others go on.
        """
        waiting = iter(pictures)
        try:
            self._admit(waiting)
            while self._window:
                yield from self._advance()
                self._admit(waiting)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _admit(self, waiting: Iterator[Picture]) -> None:
        while len(self._window) < self._max_window:
            picture = next(waiting, None)
            if picture is None:
                return
            overlay_path = self._names.path_for(picture) if self._names else None
            decoding = self._pool.submit(self._decode, picture.path)
            self._window.append(_Job(picture, decoding, overlay_path))

    def _advance(self) -> Iterator[PictureAnswer]:
        """One step: run the device, hand out the oldest answer, or wait for a decoder."""
        oldest = self._window[0]
        self._collect_decoded()
        groups = self._groups()
        full = next((group for group in groups if len(group) >= self._options.batch_size), None)
        if full is not None:
            self._infer(full[: self._options.batch_size])
        elif oldest.error is not None or oldest.finishing is not None:
            self._window.popleft()
            yield self._answer(oldest)
        elif decoding := [job.decoding for job in self._window if _is_decoding(job)]:
            wait(decoding, return_when=FIRST_COMPLETED)
        else:
            # nothing more can join: the window is full, or the pictures are at their end
            self._infer(next(group for group in groups if oldest in group))

    def _decode(self, path: Path) -> "tuple[PreparedImage, float]":
        start = time.perf_counter()
        rgb = decode_rgb(path.read_bytes(), limits=self._options.limits)
        return self._backend.prepare(rgb), _ms_since(start)

    def _collect_decoded(self) -> None:
        for job in self._window:
            if _is_decoding(job) and job.decoding.done():
                try:
                    job.prepared, job.stage_ms["decode"] = job.decoding.result()
                except _ITEM_ERRORS as exc:
                    job.error = _reason(exc)

    def _groups(self) -> list[list[_Job]]:
        """Jobs that wait for the device, by the shape of their input, oldest first."""
        groups: dict[tuple[int, int], list[_Job]] = {}
        for job in self._window:
            if job.prepared is not None and job.finishing is None and job.error is None:
                groups.setdefault(job.prepared.shape, []).append(job)
        return list(groups.values())

    def _infer(self, jobs: Sequence[_Job]) -> None:
        batch = [job.prepared for job in jobs if job.prepared is not None]
        start = time.perf_counter()
        try:
            staged = self._backend.stage(batch, [self._options.params] * len(batch))
            raws = self._backend.infer(staged)
        except (ValueError, RuntimeError, MemoryError) as exc:
            if len(jobs) == 1:
                jobs[0].error = _reason(exc)
                return
            # too large together, or one of them cannot be computed: alone each has its chance
            for job in jobs:
                self._infer([job])
            return
        infer_ms = _ms_since(start)
        for job, raw in zip(jobs, raws, strict=True):
            job.stage_ms["infer"] = infer_ms
            job.finishing = self._pool.submit(self._finish, job, raw)

    def _finish(self, job: _Job, raw: Any) -> bytes:
        if job.prepared is None:
            raise ValueError(f"{job.picture.name} has no input")
        start = time.perf_counter()
        result = self._backend.finish(raw, job.prepared)
        height, width = job.prepared.original_hw
        spec = self._backend.spec
        if job.overlay_path is not None:
            rgb = decode_rgb(job.picture.path.read_bytes(), limits=self._options.limits)
            if rgb.shape[:2] != (height, width):
                raise ValueError("the file changed while it was worked on")
            png = draw_overlay(rgb, spec, result, self._options.answer)
            job.overlay_path.parent.mkdir(parents=True, exist_ok=True)
            job.overlay_path.write_bytes(png)
        job.stage_ms["postprocess"] = _ms_since(start)
        answer = build_answer(
            spec,
            result,
            self._options.answer,
            height=height,
            width=width,
            timings_ms=job.stage_ms,
        )
        return orjson.dumps({"file": job.picture.name, **_native(answer)})

    def _answer(self, job: _Job) -> PictureAnswer:
        if job.finishing is not None:
            try:
                return PictureAnswer(job.picture, job.finishing.result(), None)
            except _ITEM_ERRORS as exc:
                job.error = _reason(exc)
        return PictureAnswer(job.picture, None, job.error)


def _is_decoding(job: _Job) -> bool:
    return job.prepared is None and job.error is None


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def _reason(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return (str(exc) or type(exc).__name__).splitlines()[0]


def _native(answer: dict[str, Any] | list[dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise TypeError("a JSON line needs the native form of the answer")
    return answer
