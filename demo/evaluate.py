"""Measure the demo models through the served pipeline and write the numbers down.

    python -m demo.evaluate --pack pack

Three sources of pictures: `heldout` (training stickers on photographs never trained on), `unseen`
(an emoji design never trained on, same photographs) and `real` (ordinary photographs,
classification only). Everything is seeded: the same pack and weights give the same numbers.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.report import Row, write_report
from demo.compose import Composer, Scene, Split
from demo.evaluation.classification import accuracy
from demo.evaluation.detection import average_precision
from demo.evaluation.prediction import predict_all
from demo.evaluation.real import real_test_photographs
from demo.evaluation.segmentation import overlap
from demo.shipped import model_files
from model.config import TaskName
from model.evaluation.classification import Accuracy
from model.predictor import Predictor
from model.results import (
    Classification,
    ClassifyParams,
    Detections,
    DetectParams,
    Params,
    Result,
    Segmentation,
    SegmentParams,
)

OUT: Final = Path(__file__).parent / "results" / "evaluation.json"
_SPLITS: Final = (Split.HELDOUT, Split.UNSEEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured on.

    Attributes:
        singles: pictures of one object per split.
        scenes: pictures of several objects per split.
        single_side: pixels.
        scene_side: pixels.
        batch: pictures that go through the network together.
    """

    pack: Path
    singles: int
    scenes: int
    single_side: int
    scene_side: int
    batch: int
    seed: int


def evaluate(predictor: Predictor, options: Options) -> list[Row]:
    """All figures of one model."""
    measure: dict[TaskName, Callable[[Predictor, Options], list[Row]]] = {
        TaskName.CLASSIFY: evaluate_classifier,
        TaskName.DETECT: evaluate_detector,
        TaskName.SEGMENT: evaluate_segmenter,
    }
    return measure[predictor.spec.task](predictor, options)


def evaluate_classifier(predictor: Predictor, options: Options) -> list[Row]:
    """Accuracies on composed pictures of both splits and on real photographs."""
    rows = []
    for split in _SPLITS:
        composer = Composer(options.pack, options.single_side, split, options.seed)
        pictures = (composer.single() for _ in range(options.singles))
        answers = _answers(predictor, pictures, ClassifyParams(), options, options.singles, split)
        found = accuracy(_of(Classification, answers))
        rows += _accuracy_rows(f"{predictor.spec.name}-{split}", found, options.singles)
    photographs = real_test_photographs(options.pack)
    answers = _answers(predictor, photographs, ClassifyParams(), options, len(photographs), "real")
    found = accuracy(_of(Classification, answers))
    return rows + _accuracy_rows(f"{predictor.spec.name}-real", found, len(photographs))


def evaluate_detector(predictor: Predictor, options: Options) -> list[Row]:
    """Average precisions of boxes and masks on scenes of both splits."""
    rows = []
    for split in _SPLITS:
        pictures = ((scene["image"], scene) for scene in _scenes(options, split))
        answers = _answers(predictor, pictures, DetectParams(), options, options.scenes, split)
        found = average_precision(_of(Detections, answers), predictor.spec.class_names)
        case = f"{predictor.spec.name}-{split}"
        rows += [
            Row(case, "box AP", "1", found.box),
            Row(case, "box AP50", "1", found.box50),
            Row(case, "mask AP", "1", found.mask),
            Row(case, "mask AP50", "1", found.mask50),
            Row(case, "pictures", "images", options.scenes),
        ]
    return rows


def evaluate_segmenter(predictor: Predictor, options: Options) -> list[Row]:
    """Overlaps of class maps on scenes of both splits."""
    rows = []
    for split in _SPLITS:
        pictures = ((scene["image"], scene["semantic"]) for scene in _scenes(options, split))
        answers = _answers(predictor, pictures, SegmentParams(), options, options.scenes, split)
        found = overlap(_of(Segmentation, answers), predictor.spec.num_classes)
        case = f"{predictor.spec.name}-{split}"
        rows += [
            Row(case, "mIoU", "1", found.mean_iou),
            Row(case, "mIoU without background", "1", found.object_iou),
            Row(case, "pixel accuracy", "1", found.pixel_accuracy),
            Row(case, "pictures", "images", options.scenes),
        ]
    return rows


def _accuracy_rows(case: str, found: Accuracy, pictures: int) -> list[Row]:
    return [
        Row(case, "top-1", "1", found.top1),
        Row(case, "top-5", "1", found.top5),
        Row(case, "top-1 averaged over classes", "1", found.class_mean),
        Row(case, "pictures", "images", pictures),
    ]


def _scenes(options: Options, split: Split) -> Iterator[Scene]:
    composer = Composer(options.pack, options.scene_side, split, options.seed)
    for _ in range(options.scenes):
        yield composer.scene()


def _answers(
    predictor: Predictor,
    pictures: Iterable[tuple[NDArray[np.uint8], Any]],
    params: Params,
    options: Options,
    total: int,
    name: str,
) -> Iterator[tuple[Result, Any]]:
    title = f"{predictor.spec.name} {name}"
    return predict_all(predictor, pictures, params, batch=options.batch, total=total, title=title)


def _of(kind: type[Any], answers: Iterable[tuple[Result, Any]]) -> Iterator[tuple[Any, Any]]:
    for answer, truth in answers:
        if not isinstance(answer, kind):
            raise TypeError(f"an answer is {type(answer).__name__}, expected {kind.__name__}")
        yield answer, truth


def _show(rows: list[Row]) -> None:
    table = Table("model and pictures", "metric", "value")
    for row in rows:
        value = f"{row.value:.3f}" if row.unit == "1" else f"{row.value:.0f}"
        table.add_row(row.case, row.metric, value)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the demo models.")
    parser.add_argument("models", nargs="*", type=Path, help="default: the shipped ones")
    parser.add_argument("--pack", type=Path, default=Path("pack"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--singles", type=int, default=2080)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--single-side", type=int, default=224)
    parser.add_argument("--scene-side", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = vars(parser.parse_args())
    models = arguments.pop("models") or model_files()
    if not models:
        parser.error("no models given and none shipped in demo/weights")
    out, device = arguments.pop("out"), arguments.pop("device")
    options = Options(**arguments)
    rows: list[Row] = []
    for path in models:
        rows += evaluate(Predictor.load(path, device=device), options)
    _show(rows)
    write_report(out, "evaluate-demo", rows, seed=options.seed)


if __name__ == "__main__":
    main()
