"""Trained models: the compiled GPU path in half precision against the CPU in float32.

python -m benchmarks.half_precision --out benchmarks/results/half-precision-h100.json

The reference cases of `benchmarks.golden_gpu` have random weights, whose detections are nearly
undecided; the models that ship with the project are trained.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torchvision.ops import box_iou

from benchmarks.report import ROOT, GrowingReport, Row
from demo.shipped import model_files
from model.compiled.predictor import CompiledPredictor, CompileOptions
from model.images import DecodeLimits, decode_rgb
from model.predictor import Predictor
from model.results import DEFAULT_PARAMS, Classification, Detections, Result, Segmentation

FOLDERS: Final = ("demo/samples", "tests/data/golden/images")
DTYPES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16}
MIN_IOU: Final = 0.95
MAX_SCORE_GAP: Final = 0.02
# fainter detections of the CPU are not looked for
MIN_SCORE: Final = 0.3


def pictures() -> list[Path]:
    """The samples and the photographs of the reference cases."""
    return sorted(
        path
        for folder in FOLDERS
        for path in (ROOT / folder).iterdir()
        if path.suffix in (".jpg", ".png", ".webp")
    )


def answer(predictor: Predictor | CompiledPredictor, path: Path) -> Result:
    """One picture through the whole pipeline."""
    rgb = decode_rgb(path.read_bytes(), limits=DecodeLimits())
    prepared = predictor.prepare(rgb)
    (raw,) = predictor.infer([prepared], [DEFAULT_PARAMS[predictor.spec.task]])
    return predictor.finish(raw, prepared)


def compare(case: str, truth: Result, got: Result) -> Iterator[Row]:
    """How much of the CPU's answer the GPU gives."""
    if isinstance(truth, Classification) and isinstance(got, Classification):
        same = truth.probabilities.argmax() == got.probabilities.argmax()
        yield Row(case, "top 1 is the same", "ratio", float(same))
        gap = np.abs(truth.probabilities - got.probabilities).max()
        yield Row(case, "largest difference of a probability", "probability", float(gap))
    elif isinstance(truth, Segmentation) and isinstance(got, Segmentation):
        share = float(np.mean(truth.label_map == got.label_map))
        yield Row(case, "pixels of the same class", "ratio", share)
    elif isinstance(truth, Detections) and isinstance(got, Detections):
        sure = truth.scores >= MIN_SCORE
        yield Row(case, "objects", "count", float(sure.sum()))
        if sure.any():
            yield Row(case, "objects found again", "ratio", found_again(truth, got, sure))


def found_again(truth: Detections, got: Detections, sure: np.ndarray) -> float:
    """Share of the objects with a box of the same class, IoU > 0.95, score within 0.02."""
    iou = box_iou(torch.from_numpy(truth.boxes), torch.from_numpy(got.boxes)).numpy()
    near = (
        (iou > MIN_IOU)
        & (truth.class_ids[:, None] == got.class_ids[None, :])
        & (np.abs(truth.scores[:, None] - got.scores[None, :]) <= MAX_SCORE_GAP)
    )
    return float(near.any(axis=1)[sure].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float16")
    args = parser.parse_args()
    report = GrowingReport(args.out, "half-precision", dtype=args.dtype)
    for path in model_files():
        exact = Predictor.load(path)
        options = CompileOptions(dtype=DTYPES[args.dtype], batch_buckets=(1,))
        compiled = CompiledPredictor.load(path, options=options)
        for picture in pictures():
            case = f"{compiled.spec.name}-{picture.stem}"
            report.add(compare(case, answer(exact, picture), answer(compiled, picture)))


if __name__ == "__main__":
    main()
