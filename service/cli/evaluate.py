"""`smserve evaluate`: a model's quality on a data set in one of the standard layouts."""

import os
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.config import TaskName
from service.cli.choices import BackendName, Device
from service.cli.console import EXIT_FAILURE, UsageError, say_error, stderr
from service.cli.evaluate_options import EvaluateOptions
from service.cli.model_choice import model_file, open_model

if TYPE_CHECKING:
    from model.evaluation.journal import Settings
    from model.evaluation.measure import Measure
    from model.evaluation.run import Evaluation
    from model.evaluation.samples import Dataset
    from service.backends.base import Backend

EXIT_INTERRUPTED = 130
_WORK = Path("evaluation")
# pictures of a block, in batches: what an interruption costs at most
_BLOCK_BATCHES = 8


def evaluate(
    task: Annotated[TaskName, typer.Argument(help="What the model does.")],
    data: Annotated[
        Path, typer.Option(help="Folder of the data set: ImageNet, COCO or ADE20K layout.")
    ],
    model: Annotated[
        Path | None, typer.Option(help="Model file; the demo model that ships if left out.")
    ] = None,
    multi_scale: Annotated[
        bool,
        typer.Option("--multi-scale", help="segment: mean over six sizes and their mirror images."),
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(help="classify: labels of pictures that lie in val/ itself.")
    ] = None,
    synsets: Annotated[
        Path | None,
        typer.Option(help="classify: map_clsloc.txt, where the labels are the ILSVRC kit's."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only so many pictures, evenly spread.", min=1)
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Measure without pictures that are damaged.")
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for the state of the run; evaluation/MODEL-KEY if left out."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier run.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the result here, too.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Most images of one shape in one run: 8; 1 at several sizes.", min=1),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.AUTO,
    backend: Annotated[
        BackendName, typer.Option(help="What computes: auto is triton on a GPU, else torch.")
    ] = BackendName.AUTO,
    threads: Annotated[
        int | None, typer.Option(help="Threads that decode and compare.", min=1, max=256)
    ] = None,
) -> None:
    """Measure a model on a data set: top-1 and top-5, box and mask AP, or mIoU.

    Answers are kept as they come: a run that was interrupted goes on where it ended when the same
    command is given again. Published figures are shown beside the measured ones where they apply.
    """
    options = EvaluateOptions(
        task=task,
        data=data,
        model=model_file(task, model),
        multi_scale=multi_scale,
        labels=labels,
        synsets=synsets,
        limit=limit,
        skip_unreadable=skip_unreadable,
        batch_size=batch_size or (1 if multi_scale else 8),
        num_threads=threads or min(os.cpu_count() or 1, 16),
        device=device,
        backend=backend,
        work=work,
        fresh=fresh,
        json=json,
    )
    _check(options)
    _evaluate(options)


def _check(options: EvaluateOptions) -> None:
    if options.multi_scale and options.task is not TaskName.SEGMENT:
        raise UsageError("--multi-scale is for segment alone")
    if options.multi_scale and options.backend is BackendName.TRITON:
        raise UsageError("--multi-scale needs --backend torch: triton answers with class maps only")
    if (options.labels or options.synsets) and options.task is not TaskName.CLASSIFY:
        raise UsageError("--labels and --synsets are for classify alone")
    if options.synsets and not options.labels:
        raise UsageError("--synsets needs --labels")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UsageError(f"cannot write {options.json}: its folder does not exist")


def _evaluate(options: EvaluateOptions) -> None:
    from model.checkpoint import read_spec
    from model.evaluation.journal import Journal
    from model.evaluation.run import Evaluation
    from service.cli.evaluation_report import report

    dataset, measure = _open_data(options, read_spec(options.model).class_names)
    dataset = dataset.limited(options.limit)
    backend = _open_backend(options)
    settings = _settings(options, dataset, backend)
    work = options.work or _WORK / f"{backend.spec.name}-{_key(settings)}"
    block_size = _BLOCK_BATCHES * options.batch_size
    with Journal(work, settings, fresh=options.fresh) as journal:
        evaluation = Evaluation(dataset, measure, journal, block_size=block_size)
        try:
            start = time.perf_counter()
            _answer(options, backend, evaluation)
            seconds = time.perf_counter() - start
            _stop_at_failures(options, evaluation)
            report(options, backend, evaluation, settings, seconds)
        except KeyboardInterrupt:
            _say_how_to_go_on(options, evaluation, work)
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _stop_at_failures(options: EvaluateOptions, evaluation: "Evaluation[Any]") -> None:
    from service.cli.evaluation_report import show_failures

    show_failures(evaluation.failures)
    if any(f.is_readable or not options.skip_unreadable for f in evaluation.failures):
        raise typer.Exit(EXIT_FAILURE)
    if not evaluation.num_done:
        raise ValueError("no picture could be measured")


def _open_data(
    options: EvaluateOptions, class_names: tuple[str, ...]
) -> "tuple[Dataset[Any], Measure[Any]]":
    from model.evaluation.ade20k import open_ade20k
    from model.evaluation.classification import ClassificationMeasure
    from model.evaluation.coco import open_coco
    from model.evaluation.detection import DetectionMeasure
    from model.evaluation.imagenet import open_imagenet
    from model.evaluation.segmentation import SegmentationMeasure

    if options.task is TaskName.CLASSIFY:
        pictures = open_imagenet(
            options.data, class_names, labels=options.labels, synsets=options.synsets
        )
        return pictures, ClassificationMeasure()
    if options.task is TaskName.DETECT:
        data = open_coco(options.data, class_names)
        return data.dataset, DetectionMeasure(data)
    return open_ade20k(options.data), SegmentationMeasure(len(class_names))


def _open_backend(options: EvaluateOptions) -> "Backend":
    if not options.multi_scale:
        return open_model(options.model, options.backend, options.device, options.batch_size)
    from model.evaluation.multi_scale import MultiScaleSegmenter
    from service.backends.selection import select_backend
    from service.backends.torch_backend import TorchBackend, file_sha256

    # the compiled model answers with class maps, whose probabilities cannot be averaged
    device = select_backend("torch", options.device).device
    segmenter = MultiScaleSegmenter.load(options.model, device=device)
    return TorchBackend(segmenter, device=device, sha256=file_sha256(options.model))


def _settings(options: EvaluateOptions, dataset: "Dataset[Any]", backend: "Backend") -> "Settings":
    """All that the answers depend on, down to the last digit."""
    return {
        "task": str(options.task),
        "model": backend.sha256,
        "data": dataset.fingerprint,
        "pictures": len(dataset.samples),
        "multi_scale": options.multi_scale,
        "backend": backend.kind,
        "device": backend.device,
        "dtype": backend.dtype,
        "batch_size": options.batch_size,
    }


def _key(settings: "Settings") -> str:
    import hashlib

    return hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]


def _answer(options: EvaluateOptions, backend: "Backend", evaluation: "Evaluation[Any]") -> None:
    """Answer what is left, with a bar on standard error."""
    from model.evaluation.errors import ClassMismatchError
    from model.images import DecodeLimits, decode_rgb
    from model.results import DEFAULT_PARAMS
    from service.cli.batch_run import BatchRun, BatchRunOptions
    from service.cli.evaluation_report import progress_bar
    from service.engine.device import DeviceCrash

    limits = DecodeLimits()
    batches = BatchRun(
        backend,
        BatchRunOptions(
            params=DEFAULT_PARAMS[options.task],
            batch_size=options.batch_size,
            num_threads=options.num_threads,
        ),
        read=lambda item: decode_rgb(item.sample.path.read_bytes(), limits=limits),
        finish=lambda item, result, hw, _: evaluation.record(item, result, hw),
        group=lambda item: item.block,
    )
    if evaluation.num_before:
        stderr().print(f"going on after {evaluation.num_before} pictures")
    try:
        with (
            closing(batches.run(evaluation.pending())) as outcomes,
            progress_bar(evaluation) as advance,
        ):
            for outcome in outcomes:
                if isinstance(outcome.cause, ClassMismatchError):
                    raise outcome.cause
                if outcome.output is not None:
                    evaluation.accept(outcome.item, outcome.output)
                else:
                    reason = outcome.error or "unknown"
                    evaluation.fail(outcome.item, reason, is_readable=outcome.is_readable)
                advance()
    except DeviceCrash as exc:
        raise RuntimeError(f"the GPU failed: {exc}") from exc


def _say_how_to_go_on(options: EvaluateOptions, evaluation: "Evaluation[Any]", work: Path) -> None:
    total = len(evaluation.dataset.samples)
    say_error(f"interrupted after {evaluation.num_done} of {total} pictures; this goes on:")
    stderr().print(options.command(work), soft_wrap=True, markup=False, highlight=False)
