"""Pyramid and region proposals on the device, shapes fixed: see `model.fpn` and `model.rpn`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.nearest.triton_fwd import add_bias_, nearest_triton
from kernels.nms.triton_fwd import batched_nms_triton
from model.boxes import ANCHOR_RATIOS, ANCHOR_STRIDES, MAX_LOG_SCALE, level_anchors
from model.compiled.convolution import Weights, conv_relu, linear
from model.compiled.detect_types import DetectControls, DetectPlan, largest
from model.fpn import FeaturePyramid
from model.layers import to_nchw, to_nhwc
from model.rpn import PROPOSAL_NMS_IOU, RegionProposalNetwork

# objectness, four deltas and three zeros per anchor: 24 columns keep the product's rows aligned
ANCHOR_COLUMNS: Final = 8
ANCHORS_PER_CELL: Final = len(ANCHOR_RATIOS)


@dataclass(frozen=True, slots=True)
class Proposals:
    """RoIs of a batch, R rows per image.

    Attributes:
        boxes: (B, R, 4) float32 in the resized image, by falling score; zero where not valid.
        valid: (B, R) bool.
    """

    boxes: Tensor
    valid: Tensor


class PyramidStage:
    """`FeaturePyramid` over channels-last maps."""

    def __init__(
        self, fpn: FeaturePyramid, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self._laterals = [Weights.of(own, dtype=dtype, device=device) for own in fpn.laterals]
        self._outputs = [Weights.of(own, dtype=dtype, device=device) for own in fpn.outputs]

    def __call__(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Four (B, H_i, W_i, C_i) -> five (B, C, ., .) in channels-last memory, strides 4..64."""
        level = linear(features[-1], self._laterals[-1])
        levels = [level]
        for x, own in zip(features[-2::-1], self._laterals[-2::-1], strict=True):
            # the product is added to the up-sampled sum in place: a map is written twice in all
            level = nearest_triton(level, (x.shape[1], x.shape[2]), own.bias)
            level.view(-1, level.shape[3]).addmm_(x.reshape(-1, x.shape[3]), own.weight.t())
            levels.insert(0, level)
        pyramid = [_output(to_nchw(x), own) for x, own in zip(levels, self._outputs, strict=True)]
        fifth = pyramid[-1][:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return [*pyramid, fifth]


class ProposalStage:
    """`RegionProposalNetwork` and `select_proposals` for a batch at once."""

    def __init__(
        self, rpn: RegionProposalNetwork, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self._hidden = Weights.of(rpn.conv, dtype=dtype, device=device)
        objectness = Weights.of(rpn.objectness, dtype=dtype, device=device)
        deltas = Weights.of(rpn.deltas, dtype=dtype, device=device)
        self._outputs = Weights(
            _by_anchor(objectness.weight, deltas.weight),
            _by_anchor(objectness.bias[:, None], deltas.bias[:, None]).flatten(),
        )
        self._threshold = torch.tensor(PROPOSAL_NMS_IOU, dtype=torch.float32, device=device)

    def __call__(
        self, pyramid: Sequence[Tensor], limits: Tensor, controls: DetectControls, plan: DetectPlan
    ) -> Proposals:
        """Five (B, C, H_i, W_i) -> the best boxes.

        Args:
            pyramid: in channels-last memory.
            limits: (B, 4) float32, width and height of the resized image, twice.
        """
        answers = self._answers(pyramid, plan)
        logits, anchor = largest(self._by_level(answers, plan), plan.candidates)
        # a level with fewer anchors than candidates is filled up: with logit -inf those rows come
        # last, suppress nothing and are not valid in the end
        clamped = torch.minimum(anchor, plan.last_anchor)
        own = answers.index_select(0, (clamped + plan.row_base).flatten())
        shape = (*anchor.shape, 4)
        boxes = decode_and_clip(
            plan.anchors.index_select(0, (clamped + plan.anchor_base).flatten()).view(shape),
            own[:, 1:5].float().view(shape),
            limits[:, None, None],
        )
        solid = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        keep = batched_nms_triton(
            boxes.flatten(0, 1),
            solid.flatten(0, 1),
            self._threshold.expand(plan.batch * len(plan.level_hws)),
        )
        return _best_of_all_levels(boxes, logits, keep.view(logits.shape), controls, plan)

    def _answers(self, pyramid: Sequence[Tensor], plan: DetectPlan) -> Tensor:
        """(all anchors, 8): level by level, in it image by image, in it as `level_anchors` are."""
        cells = plan.batch * sum(height * width for height, width in plan.level_hws)
        weight, bias = self._outputs.weight.t(), self._outputs.bias
        answers = pyramid[0].new_empty((cells, len(bias)))
        start = 0
        for x in pyramid:
            hidden = to_nhwc(conv_relu(x, self._hidden)).reshape(-1, x.shape[1])
            stop = start + len(hidden)
            torch.addmm(bias, hidden, weight, out=answers[start:stop])
            start = stop
        return answers.view(-1, ANCHOR_COLUMNS)

    @staticmethod
    def _by_level(answers: Tensor, plan: DetectPlan) -> Tensor:
        """(B, 5, anchors of the largest level) float32 logits, -inf where a level has ended."""
        counts = [ANCHORS_PER_CELL * height * width for height, width in plan.level_hws]
        logits = torch.full(
            (plan.batch, len(counts), max(*counts, plan.candidates)),
            -torch.inf,
            dtype=torch.float32,
            device=answers.device,
        )
        start = 0
        for level, count in enumerate(counts):
            stop = start + plan.batch * count
            logits[:, level, :count].copy_(answers[start:stop, 0].view(plan.batch, count))
            start = stop
        return logits


def _output(x: Tensor, own: Weights) -> Tensor:
    """A convolution; its bias the library would add in a slow launch of its own."""
    y = F.conv2d(x, own.weight, padding=own.weight.shape[2] // 2)
    # as cuDNN gives it anyway
    y = y.contiguous(memory_format=torch.channels_last)
    return to_nchw(add_bias_(to_nhwc(y), own.bias))


def decode_and_clip(anchors: Tensor, deltas: Tensor, limits: Tensor) -> Tensor:
    """`model.boxes.decode_boxes`, the limits on the device.

    Args:
        anchors: (..., 4) float32.
        deltas: (..., 4) float32, already multiplied with their stds.
        limits: float32, width and height twice, broadcast against the boxes.
    """
    low, high = anchors[..., :2], anchors[..., 2:]
    size = high - low
    centre = (low + high) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp() * 0.5
    corners = torch.cat((centre - half, centre + half), dim=-1)
    return torch.minimum(corners.clamp(min=0), limits)


def plan_anchors(
    batch: int, level_hws: Sequence[tuple[int, int]], *, device: torch.device | str
) -> dict[str, Tensor]:
    """The fields of `DetectPlan` that describe the anchors of these levels."""
    strides = ANCHOR_STRIDES[: len(level_hws)]
    levels = [level_anchors(*hw, stride) for hw, stride in zip(level_hws, strides, strict=True)]
    counts = torch.tensor([len(level) for level in levels])
    before = counts.cumsum(0) - counts
    image = torch.arange(batch)[:, None]
    fields = {
        "anchors": torch.cat(levels),
        "last_anchor": (counts - 1)[:, None],
        "anchor_base": before[:, None],
        "row_base": (batch * before + image * counts)[..., None],
    }
    return {name: tensor.to(device) for name, tensor in fields.items()}


def _by_anchor(objectness: Tensor, deltas: Tensor) -> Tensor:
    """(3, C) and (12, C), anchor-major -> (3 * 8, C)."""
    rows = objectness.new_zeros((len(objectness), ANCHOR_COLUMNS, objectness.shape[1]))
    rows[:, 0] = objectness
    rows[:, 1:5] = deltas.view(len(objectness), 4, -1)
    return rows.flatten(0, 1)


def _best_of_all_levels(
    boxes: Tensor, logits: Tensor, keep: Tensor, controls: DetectControls, plan: DetectPlan
) -> Proposals:
    kept = logits.masked_fill(~keep, -torch.inf).flatten(1)
    ranked, index = largest(kept, plan.proposals)
    allowed = plan.slot[: plan.proposals] < controls.max_proposals[:, None]
    valid = (ranked > -torch.inf) & allowed
    best = boxes.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
    return Proposals(best.masked_fill(~valid[..., None], 0.0), valid)
