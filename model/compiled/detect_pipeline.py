"""Detection around its captured graph: controls in, boxes and run lengths out."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.compiled.backbone import CompiledBackbone
from model.compiled.detect_types import DetectControls, DetectPlan, DetectTensors
from model.compiled.detector import CompiledDetectorHead
from model.compiled.mask_runs import MaskRuns, encode_image, find_runs
from model.compiled.pictures import PreparedPicture
from model.compiled.pipelines import Choice
from model.compiled.transfer import send, to_host
from model.config import InputConfig
from model.layers import to_nchw
from model.mask_rcnn import MaskRCNN, RawDetections
from model.results import Detections, DetectParams, Params
from model.tasks.detect import DetectTask, to_original

# rows of the answer per image: the published limit, and room for those who want more
CAPACITIES: Final = (100, 300)
# a hundred objects, a hundred columns each, one run a column, some more: the first guess
_EDGES_PER_IMAGE: Final = 1 << 15
_FINEST_STRIDE: Final = 4
_LEVELS: Final = 4
# rows start on 16 bytes, so that kernels see the same alignment with any batch size
_ALIGNED: Final = 4

# values per image and dtype: the fields of `DetectControls`, scale, original size
_FIELDS: Final = (
    (2, torch.float32),
    (1, torch.float32),
    (1, torch.float32),
    (1, torch.int32),
    (1, torch.int32),
    (4, torch.float32),
    (2, torch.int32),
)
_ROWS: Final = sum(rows for rows, _ in _FIELDS)


class Controls:
    """What differs between the requests of one batch, filled anew by a single copy.

    Attributes:
        graph: read by the captured graph.
        scale: (B, 4) float32, resized / original size of x, y, x, y.
        original_hw: (B, 2) int32, height and width of the upright original images.
    """

    def __init__(self, batch: int, device: torch.device) -> None:
        self._batch = batch
        self._packed = torch.zeros((_ROWS, -(-batch // _ALIGNED) * _ALIGNED), device=device)
        image_hw, scores, nms, detections, proposals, scale, original = self._views(self._packed)
        self.graph = DetectControls(image_hw, scores, nms, detections, proposals)
        self.scale, self.original_hw = scale, original

    def fill(self, batch: Sequence[PreparedPicture], params: Sequence[DetectParams]) -> None:
        """Fewer images than B are filled up with empty ones; returns before it is done."""
        host = torch.zeros(self._packed.shape)
        *controls, scale, original = self._views(host)
        own = DetectControls.of([prepared.resized_hw for prepared in batch], params)
        for field, target in zip(fields(own), controls, strict=True):
            target[: len(batch)] = getattr(own, field.name)
        scale.fill_(1.0)
        scale[: len(batch)] = torch.tensor([_scale(prepared) for prepared in batch])
        original[: len(batch)] = torch.tensor([prepared.original_hw for prepared in batch])
        send(host, self._packed)

    def _views(self, packed: Tensor) -> list[Tensor]:
        views = []
        start = 0
        for rows, dtype in _FIELDS:
            flat = packed[start : start + rows].view(dtype).flatten()[: rows * self._batch]
            views.append(flat.view(self._batch, rows) if rows > 1 else flat)
            start += rows
        return views


@dataclass(frozen=True, slots=True)
class DetectInputs:
    """Static inputs of one graph.

    Attributes:
        pictures: (B, H, W, 4).
    """

    pictures: Tensor
    controls: Controls
    plan: DetectPlan


@dataclass(frozen=True, slots=True)
class FoundObjects:
    """Objects of one image, on the host.

    Attributes:
        boxes: (N, 4) float32 in the resized image.
        scores: (N,) float32, falling.
        class_ids: (N,) int32.
        masks: None when they were not asked for.
    """

    boxes: Tensor
    scores: Tensor
    class_ids: Tensor
    masks: "_MaskEdges | None"


@dataclass(frozen=True, slots=True)
class _MaskEdges:
    """Run lengths to be of image `image` of a batch; see `model.compiled.mask_runs`."""

    edges: NDArray[np.int32]
    ends: NDArray[np.int32]
    image: int


class DetectPipeline:
    """Raw results are `FoundObjects`, or `RawDetections` of the module where that was needed.

    Where the compiled head cannot tell all objects (`DetectTensors.is_truncated`: low thresholds,
    more than 300 objects wanted), the module's own stages answer in float32, on the same maps.

    Attributes:
        fallbacks: images that the module answered, since the start.
    """

    def __init__(
        self, network: MaskRCNN, config: InputConfig, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.fallbacks = 0
        self._device = device
        self._backbone = CompiledBackbone(network.backbone, config, dtype=dtype, device=device)
        self._head = CompiledDetectorHead(network, dtype=dtype, device=device)
        self._module = network
        for part in (network.fpn, network.rpn, network.box_head, network.mask_head):
            part.to(device)
        self._edges_per_image = _EDGES_PER_IMAGE

    def choose(self, params: Sequence[Params]) -> Choice:
        own = _own(params)
        wanted = max(param.max_detections for param in own)
        return Choice(
            capacity=next((c for c in CAPACITIES if c >= wanted), CAPACITIES[-1]),
            with_masks=any(param.with_masks for param in own),
        )

    def inputs(self, pictures: Tensor, choice: Choice) -> DetectInputs:
        batch, height, width, _ = pictures.shape
        strides = [_FINEST_STRIDE << level for level in range(_LEVELS)]
        plan = self._head.plan(
            batch,
            [(-(-height // stride), -(-width // stride)) for stride in strides],
            capacity=choice.capacity,
            with_masks=choice.with_masks,
        )
        return DetectInputs(pictures, Controls(batch, self._device), plan)

    def pictures(self, inputs: DetectInputs) -> Tensor:
        return inputs.pictures

    def control(
        self, inputs: DetectInputs, batch: Sequence[PreparedPicture], params: Sequence[Params]
    ) -> None:
        inputs.controls.fill(batch, _own(params))

    def features(self, pictures: Tensor) -> list[Tensor]:
        return self._backbone(pictures)

    def run(self, inputs: DetectInputs) -> DetectTensors:
        features = self._backbone(inputs.pictures)
        return self._head(features, inputs.controls.graph, inputs.plan)

    def collect(
        self,
        inputs: DetectInputs,
        outputs: DetectTensors,
        batch: Sequence[PreparedPicture],
        params: Sequence[Params],
    ) -> list[FoundObjects | RawDetections]:
        """One wait for the device, two with masks, one more when the edges found no room."""
        own = _own(params)
        found = _first_rows(outputs, len(batch))
        wanted = [found.boxes, found.scores, found.class_ids, found.counts, found.is_truncated]
        runs = None
        if found.mask_logits is not None:
            runs = self._find_runs(found, inputs, batch, len(batch) * self._edges_per_image)
            wanted.append(runs.ends)
        boxes, scores, class_ids, counts, is_truncated, *ends = to_host(wanted)
        masks: list[_MaskEdges | None] = [None] * len(batch)
        if runs is not None:
            edges = self._fetch_edges(found, inputs, batch, runs, int(ends[0][-1, -1]))
            masks = [
                _MaskEdges(edges, ends[0].numpy(), i) if param.with_masks else None
                for i, param in enumerate(own)
            ]
        rows = [slice(0, count) for count in counts.tolist()]
        return [
            self._ask_module(inputs, i, batch[i], own[i])
            if is_truncated[i]
            else FoundObjects(boxes[i, row], scores[i, row], class_ids[i, row], masks[i])
            for i, row in enumerate(rows)
        ]

    def finish(self, raw: FoundObjects | RawDetections, prepared: PreparedPicture) -> Detections:
        if isinstance(raw, RawDetections):
            return DetectTask().finish(raw, prepared)
        masks = None
        if raw.masks is not None:
            own = raw.masks
            masks = encode_image(
                own.edges, own.ends, own.image, len(raw.boxes), prepared.original_hw
            )
        boxes = to_original(raw.boxes, prepared.resized_hw, prepared.original_hw)
        return Detections(
            boxes=boxes.numpy(),
            scores=raw.scores.numpy(),
            class_ids=raw.class_ids.long().numpy(),
            masks=masks,
        )

    def _find_runs(
        self,
        found: DetectTensors,
        inputs: DetectInputs,
        batch: Sequence[PreparedPicture],
        capacity: int,
    ) -> MaskRuns:
        controls = inputs.controls
        return find_runs(
            found,
            controls.scale[: len(batch)],
            controls.original_hw[: len(batch)],
            columns=max(prepared.original_hw[1] for prepared in batch),
            capacity=capacity,
        )

    def _fetch_edges(
        self,
        found: DetectTensors,
        inputs: DetectInputs,
        batch: Sequence[PreparedPicture],
        runs: MaskRuns,
        total: int,
    ) -> NDArray[np.int32]:
        if total > len(runs.edges):
            # large photographs: the next batch is likely to be of the same kind
            self._edges_per_image = max(self._edges_per_image, -(-total // len(batch)))
            runs = self._find_runs(found, inputs, batch, total)
        (edges,) = to_host([runs.edges[:total]])
        return edges.numpy()

    def _ask_module(
        self, inputs: DetectInputs, image: int, prepared: PreparedPicture, params: DetectParams
    ) -> RawDetections:
        """The picture is still in the graph's input, its maps are made once more."""
        self.fallbacks += 1
        params = replace(params, max_proposals=min(params.max_proposals, inputs.plan.proposals))
        features = self._backbone(inputs.pictures[image : image + 1])
        pyramid = self._module.fpn([to_nchw(x).float() for x in features])
        (raw,) = self._module.detect(pyramid, [prepared.resized_hw], [params])
        boxes, scores, class_ids = to_host([raw.boxes, raw.scores, raw.class_ids])
        logits = None if raw.mask_logits is None else to_host([raw.mask_logits])[0]
        return RawDetections(boxes, scores, class_ids, logits)


def _own(params: Sequence[Params]) -> list[DetectParams]:
    own = [param for param in params if isinstance(param, DetectParams)]
    if len(own) != len(params):
        raise TypeError("detection needs DetectParams")
    return own


def _first_rows(found: DetectTensors, count: int) -> DetectTensors:
    logits = found.mask_logits
    return DetectTensors(
        boxes=found.boxes[:count],
        scores=found.scores[:count],
        class_ids=found.class_ids[:count],
        counts=found.counts[:count],
        mask_logits=None if logits is None else logits[:count],
        is_truncated=found.is_truncated[:count],
    )


def _scale(prepared: PreparedPicture) -> list[float]:
    (new_h, new_w), (height, width) = prepared.resized_hw, prepared.original_hw
    return [new_w / width, new_h / height] * 2
