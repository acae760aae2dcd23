"""Average precision and recall of boxes and masks, computed by pycocotools."""

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.evaluation.coco import CocoData, CocoPicture
from model.evaluation.errors import TruthError
from model.results import Detections, Result

# in the order of `COCOeval.stats`
COCO_METRICS: Final = (
    *("AP", "AP50", "AP75", "AP small", "AP medium", "AP large"),
    *("AR1", "AR10", "AR100", "AR small", "AR medium", "AR large"),
)
# the running figure is computed when there are twice as many pictures as the last time
_FIRST_HEADLINE: Final = 50


@dataclass(frozen=True, slots=True)
class CocoScores:
    """0..1 each, in the order of `COCO_METRICS`; NaN where there is nothing of that size."""

    box: tuple[float, ...]
    mask: tuple[float, ...]


def coco_results(
    image_id: int, found: Detections, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections of one picture as entries of COCO's results format.

    Args:
        category_ids: the data set's number of every class id.

    Raises:
        ValueError: the detections have no masks.
    """
    if found.masks is None:
        raise ValueError("the detections have no masks")
    boxes, scores = found.boxes.tolist(), found.scores.tolist()
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[class_id],
            "score": score,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": {"size": [mask.height, mask.width], "counts": mask.counts},
        }
        for (x1, y1, x2, y2), score, class_id, mask in zip(
            boxes, scores, found.class_ids.tolist(), found.masks, strict=True
        )
    ]


class CocoReference:
    """The true objects, indexed once.

    Args:
        annotations: lists `images`, `annotations` and `categories`, as COCO's files have them.
    """

    def __init__(self, annotations: Mapping[str, Any]) -> None:
        self._truth = _index({"info": {}, **annotations})

    def scores(
        self, found: Sequence[dict[str, Any]], image_ids: Iterable[int] | None = None
    ) -> CocoScores:
        """Compare results with the truth.

        Args:
            found: entries of COCO's results format with boxes and masks.
            image_ids: only these pictures count; None: all.
        """
        ids = None if image_ids is None else list(image_ids)
        return CocoScores(self._scores(found, ids, "bbox"), self._scores(found, ids, "segm"))

    def box_ap(self, found: Sequence[dict[str, Any]], image_ids: Iterable[int]) -> float:
        """AP of boxes alone, which is many times quicker."""
        return self._scores(found, list(image_ids), "bbox")[0]

    def _scores(
        self,
        found: Sequence[dict[str, Any]],
        image_ids: list[int] | None,
        kind: Literal["bbox", "segm"],
    ) -> tuple[float, ...]:
        # pycocotools takes sizes from whatever else an entry carries, and writes into entries
        other = "segmentation" if kind == "bbox" else "bbox"
        entries = [{k: v for k, v in entry.items() if k != other} for entry in found]
        # it reports its progress by printing
        with contextlib.redirect_stdout(io.StringIO()):
            results = self._truth.loadRes(entries) if entries else _index(self._without_objects())
            evaluation = COCOeval(self._truth, results, kind)
            if image_ids is not None:
                evaluation.params.imgIds = image_ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # -1 stands for "there is nothing to find"
        return tuple(float(value) if value >= 0 else math.nan for value in evaluation.stats)

    def _without_objects(self) -> dict[str, Any]:
        return {**self._truth.dataset, "annotations": []}


def _index(dataset: dict[str, Any]) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    return coco


class DetectionMeasure:
    """See `model.evaluation.measure.Measure`."""

    def __init__(self, data: CocoData) -> None:
        self._reference = CocoReference(data.annotations)
        self._category_ids = data.category_ids
        self._found: list[dict[str, Any]] = []
        self._image_ids: list[int] = []
        self._next_headline = _FIRST_HEADLINE
        self._headline = ""

    def record(
        self, truth: CocoPicture, result: Result, original_hw: tuple[int, int]
    ) -> dict[str, Any]:
        if not isinstance(result, Detections):
            raise TypeError(f"expected Detections, got {type(result).__name__}")
        if original_hw != (truth.height, truth.width):
            raise TruthError(
                f"the picture is {original_hw[1]}x{original_hw[0]}, its annotation is for "
                f"{truth.width}x{truth.height}"
            )
        return {"found": coco_results(truth.image_id, result, self._category_ids)}

    def add(self, truth: CocoPicture, record: dict[str, Any]) -> None:
        self._found += record["found"]
        self._image_ids.append(truth.image_id)

    def headline(self) -> str:
        """Box AP of the pictures so far; brought up to date ever more rarely, for it takes time."""
        count = len(self._image_ids)
        if count >= self._next_headline:
            box_ap = self._reference.box_ap(self._found, self._image_ids)
            self._headline = f"box AP {100 * box_ap:.1f} after {count}"
            self._next_headline = 2 * count
        return self._headline

    def metrics(self) -> dict[str, float]:
        if not self._image_ids:
            raise ValueError("no answers to measure")
        scores = self._reference.scores(self._found, self._image_ids)
        kinds = {"box": scores.box, "mask": scores.mask}
        return {
            f"{kind} {name}": value
            for kind, values in kinds.items()
            for name, value in zip(COCO_METRICS, values, strict=True)
        }
