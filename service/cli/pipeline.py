"""Many pictures through one model to JSON lines and drawings."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from model.images import DecodeLimits, decode_rgb
from model.results import Params, Result
from service.answers import AnswerOptions, build_answer
from service.cli.batch_run import BatchRun, BatchRunOptions
from service.cli.inputs import OverlayNames, Picture
from service.overlay import draw_overlay

if TYPE_CHECKING:
    from service.backends.base import Backend


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


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A picture, and where to draw its results; None: nowhere."""

    picture: Picture
    overlay_path: Path | None


class Pipeline:
    """One pass over pictures; drawings read the file again."""

    def __init__(self, backend: "Backend", options: PipelineOptions) -> None:
        self._backend = backend
        self._options = options
        self._names = OverlayNames(options.overlay_folder) if options.overlay_folder else None
        self._batches: BatchRun[_Drawn, bytes] = BatchRun(
            backend,
            BatchRunOptions(
                params=options.params,
                batch_size=options.batch_size,
                num_threads=options.num_threads,
            ),
            read=self._read,
            finish=self._finish,
        )

    def run(self, pictures: Iterable[Picture]) -> Iterator[PictureAnswer]:
        """Answers in the order of the pictures; see `BatchRun.run`."""
        for outcome in self._batches.run(self._named(pictures)):
            yield PictureAnswer(outcome.item.picture, outcome.output, outcome.error)

    def _named(self, pictures: Iterable[Picture]) -> Iterator[_Drawn]:
        for picture in pictures:
            yield _Drawn(picture, self._names.path_for(picture) if self._names else None)

    def _read(self, item: _Drawn) -> NDArray[np.uint8]:
        return decode_rgb(item.picture.path.read_bytes(), limits=self._options.limits)

    def _finish(
        self,
        item: _Drawn,
        result: Result,
        original_hw: tuple[int, int],
        stage_ms: dict[str, float],
    ) -> bytes:
        height, width = original_hw
        if item.overlay_path is not None:
            start = time.perf_counter()
            self._draw(item, item.overlay_path, result, original_hw)
            stage_ms["postprocess"] += (time.perf_counter() - start) * 1000
        answer = build_answer(
            self._backend.spec,
            result,
            self._options.answer,
            height=height,
            width=width,
            timings_ms=stage_ms,
        )
        return orjson.dumps({"file": item.picture.name, **_native(answer)})

    def _draw(self, item: _Drawn, path: Path, result: Result, original_hw: tuple[int, int]) -> None:
        rgb = self._read(item)
        if rgb.shape[:2] != original_hw:
            raise ValueError("the file changed while it was worked on")
        png = draw_overlay(rgb, self._backend.spec, result, self._options.answer)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)


def _native(answer: dict[str, Any] | list[dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise TypeError("a JSON line needs the native form of the answer")
    return answer
