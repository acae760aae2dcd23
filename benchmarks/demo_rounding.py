"""Which boxes of the demo detector rounding to float16 moves, on the CPU.

python -m benchmarks.demo_rounding --out benchmarks/results/demo-rounding-cpu.json

Weights and maps are rounded as in `benchmarks.half_rounding`. For each object of the shipped scenes
that float32 finds with a score over 0.6: the overlap with the best box of its class then.
"""

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from torchvision.ops import box_iou

from benchmarks.half_rounding import round_weights, rounded_maps
from benchmarks.report import Row, write_report
from demo.shipped import model_files, sample_files
from model.checkpoint import load_network
from model.config import TaskName
from model.images import DecodeLimits, decode_rgb
from model.predictor import Predictor
from model.results import DEFAULT_PARAMS

SCORE: Final = 0.6


def found(predictor: Predictor, file: Path) -> Any:
    """Objects of one picture."""
    prepared = predictor.prepare(decode_rgb(file.read_bytes(), limits=DecodeLimits()))
    (raw,) = predictor.infer([prepared], [DEFAULT_PARAMS[TaskName.DETECT]])
    return predictor.finish(raw, prepared)


def overlaps(wanted: Any, got: Any) -> list[tuple[float, float]]:
    """Score and best overlap of each certain object."""
    ious = box_iou(torch.from_numpy(wanted.boxes), torch.from_numpy(got.boxes)).numpy()
    ious[wanted.class_ids[:, None] != got.class_ids[None, :]] = 0.0
    return [
        (float(score), float(row.max(initial=0.0)))
        for score, row in zip(wanted.scores, ious, strict=True)
        if score > SCORE
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    (file,) = (path for path in model_files() if "detect" in path.stem)
    network, spec = load_network(file)
    exact, half = (Predictor(deepcopy(network), spec) for _ in range(2))
    round_weights(half._network, "")
    rows = []
    for scene in (path for path in sample_files() if path.stem.startswith("stickers")):
        wanted = found(exact, scene)
        with rounded_maps(half._network, ""):
            got = found(half, scene)
        for number, (score, overlap) in enumerate(overlaps(wanted, got), start=1):
            case = f"{scene.stem}-object-{number}"
            rows += [Row(case, "score", "probability", score), Row(case, "IoU", "ratio", overlap)]
    moved = [row.value for row in rows if row.metric == "IoU" and row.value < 0.9]
    rows.append(Row("all objects", "moved to an IoU below 0.9", "objects", len(moved)))
    write_report(arguments.out, "demo-rounding", rows)


if __name__ == "__main__":
    main()
