"""`smserve predict`: images and folders through one model, without a server."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from model.config import TaskName
from service.cli.choices import BackendName, Device, Masks
from service.cli.console import EXIT_FAILURE, UsageError, say_error, stderr
from service.cli.model_choice import model_file, open_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from model.config import ModelSpec
    from model.results import Params
    from service.answers import AnswerOptions
    from service.cli.inputs import Picture
    from service.cli.pipeline import Pipeline


def predict(
    task: Annotated[TaskName, typer.Argument(help="What to do.")],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Images, or folders of images.")
    ],
    model: Annotated[
        Path | None, typer.Option(help="Model file; the demo model that ships if left out.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write JSON lines here; standard output if left out.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Write pictures with the results drawn on, here.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Most images of one shape in one run.", min=1, max=1024)
    ] = 8,
    threshold: Annotated[
        float | None, typer.Option(help="Only scores of at least this.", min=0.0, max=1.0)
    ] = None,
    top_k: Annotated[int, typer.Option(help="classify: this many classes.", min=1)] = 5,
    max_detections: Annotated[
        int, typer.Option(help="detect: at most this many objects.", min=1, max=1000)
    ] = 100,
    classes: Annotated[
        str | None, typer.Option(help="Only these: names or numbers, with commas between.")
    ] = None,
    masks: Annotated[Masks, typer.Option(help="Form of the masks.")] = Masks.RLE,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.AUTO,
    backend: Annotated[
        BackendName, typer.Option(help="What computes: auto is triton on a GPU, else torch.")
    ] = BackendName.AUTO,
    threads: Annotated[
        int | None, typer.Option(help="Threads that decode and draw.", min=1, max=256)
    ] = None,
) -> None:
    """Classify images, detect objects in them, or segment them.

    Writes one JSON line per image, of the same form as the HTTP answer, with the field "file".
    A file that cannot be read is reported and the rest goes on; the exit status is then 1.
    """
    from model.images import DecodeLimits
    from service.cli.inputs import find_pictures
    from service.cli.pipeline import Pipeline, PipelineOptions
    from service.engine.device import DeviceCrash

    pictures = list(find_pictures(inputs))
    if not pictures:
        raise UsageError(f"no images in {', '.join(str(path) for path in inputs)}")
    opened = open_model(model_file(task, model), backend, device, batch_size)
    options = PipelineOptions(
        params=_params(task, threshold, max_detections, masks),
        answer=_answer_options(opened.spec, threshold, top_k, classes, masks),
        limits=DecodeLimits(),
        batch_size=batch_size,
        num_threads=threads or min(os.cpu_count() or 1, 16),
        overlay_folder=overlay,
    )
    with _json_lines(json) as lines:
        try:
            num_bad = _run(Pipeline(opened, options), pictures, lines)
        except DeviceCrash as exc:
            raise RuntimeError(f"the GPU failed: {exc}") from exc
    if num_bad:
        say_error(f"{num_bad} of {len(pictures)} images failed")
        raise typer.Exit(EXIT_FAILURE)


def _params(task: TaskName, threshold: float | None, max_detections: int, masks: Masks) -> "Params":
    from model.results import ClassifyParams, DetectParams, SegmentParams

    if task is TaskName.CLASSIFY:
        return ClassifyParams()
    if task is TaskName.SEGMENT:
        return SegmentParams()
    defaults = DetectParams()
    return DetectParams(
        score_threshold=defaults.score_threshold if threshold is None else threshold,
        max_detections=max_detections,
        with_masks=masks is not Masks.NONE,
    )


def _answer_options(
    spec: "ModelSpec", threshold: float | None, top_k: int, classes: str | None, masks: Masks
) -> "AnswerOptions":
    from service.answers import AnswerOptions, parse_class_filter

    class_ids = None
    if classes is not None:
        try:
            class_ids = parse_class_filter(classes, spec)
        except ValueError as exc:
            raise UsageError(f"--classes: {exc}") from exc
    return AnswerOptions(top_k=top_k, threshold=threshold, class_ids=class_ids, masks=masks.value)


@contextmanager
def _json_lines(path: Path | None) -> Iterator[IO[bytes]]:
    if path is None:
        yield typer.get_binary_stream("stdout")
        return
    try:
        file = path.open("wb")
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror or exc}") from exc
    with file:
        yield file


def _run(pipeline: "Pipeline", pictures: "Sequence[Picture]", lines: IO[bytes]) -> int:
    """Answer all pictures.

    Returns:
        how many could not be answered.
    """
    num_bad = 0
    with _progress(lines) as progress:
        bar = progress.add_task("images", total=len(pictures))
        for answer in pipeline.run(pictures):
            if answer.line is None:
                num_bad += 1
                say_error(f"{answer.picture.name}: {answer.error}")
            else:
                lines.write(answer.line + b"\n")
            progress.advance(bar)
        lines.flush()
    return num_bad


def _progress(lines: IO[bytes]) -> "Progress":
    """A bar on standard error; none when it would run through JSON lines on the same terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = stderr()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or lines.isatty(),
    )
