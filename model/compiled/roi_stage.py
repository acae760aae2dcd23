"""Box head, final selection and mask head on the device, shapes fixed: see `model.roi_heads`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.nms.triton_fwd import batched_nms_triton
from kernels.roi_align.triton_fwd import roi_align_triton
from model.boxes import ROI_STDS
from model.compiled.convolution import Weights, conv_relu, linear, linear_relu
from model.compiled.detect_types import DetectControls, DetectPlan, DetectTensors, largest
from model.compiled.proposals import Proposals, decode_and_clip
from model.layers import to_nchw, to_nhwc
from model.roi_heads import BOX_POOL, MASK_POOL, NUM_ROI_LEVELS, BoxHead, MaskHead, assign_levels


def pool(
    pyramid: Sequence[Tensor], boxes: Tensor, present: Tensor, plan: DetectPlan, *, size: int
) -> Tensor:
    """RoIAlign of the boxes of all images.

    Args:
        pyramid: levels (B, C, H_i, W_i) in channels-last memory; the first four are used.
        boxes: (B, N, 4) float32 in the resized image.
        present: (B, N) bool; other rows are zero.

    Returns:
        (B * N, size, size, C).
    """
    rois = boxes.flatten(0, 1)
    images = plan.image.expand(present.shape).masked_fill(~present, -1)
    maps = [to_nhwc(x) for x in pyramid[:NUM_ROI_LEVELS]]
    return roi_align_triton(maps, rois, images.flatten(), assign_levels(rois), size)


class BoxStage:
    """`BoxHead` and `select_detections` for a batch at once."""

    def __init__(self, head: BoxHead, *, dtype: torch.dtype, device: torch.device | str) -> None:
        self.num_classes = head.classify.out_features - 1
        fc1 = Weights.of(head.fc1, dtype=dtype, device=device)
        # pooled boxes are flattened bins first, channels last
        by_bin = fc1.weight.view(len(fc1.weight), -1, BOX_POOL**2).mT.flatten(1)
        self._fc1 = Weights(by_bin.contiguous(), fc1.bias)
        self._fc2 = Weights.of(head.fc2, dtype=dtype, device=device)
        classify = Weights.of(head.classify, dtype=dtype, device=device)
        regress = Weights.of(head.regress, dtype=dtype, device=device)
        # logits, deltas, zeros up to a multiple of 8 columns, which keeps the rows aligned
        missing = -(len(classify.weight) + len(regress.weight)) % 8
        nothing = classify.weight.new_zeros((missing, classify.weight.shape[1]))
        self._outputs = Weights(
            torch.cat((classify.weight, regress.weight, nothing)),
            torch.cat((classify.bias, regress.bias, nothing[:, 0])),
        )
        self._stds = torch.tensor(ROI_STDS, dtype=torch.float32, device=device)
        self._delta = torch.arange(4, device=device)

    def __call__(
        self,
        pyramid: Sequence[Tensor],
        proposals: Proposals,
        limits: Tensor,
        controls: DetectControls,
        plan: DetectPlan,
    ) -> DetectTensors:
        """Proposals -> final boxes, without masks."""
        pooled = pool(pyramid, proposals.boxes, proposals.valid, plan, size=BOX_POOL)
        hidden = linear_relu(linear_relu(pooled.flatten(1), self._fc1), self._fc2)
        answers = linear(hidden, self._outputs)
        probabilities = self._probabilities(answers, plan)
        too_low = probabilities <= controls.score_threshold[:, None, None]
        too_low |= ~proposals.valid[..., None]
        competing = probabilities.masked_fill_(too_low, -1.0).flatten(1)
        scores, pair = largest(competing, plan.pairs)
        roi = pair // self.num_classes
        class_ids = pair - roi * self.num_classes
        boxes = decode_and_clip(
            proposals.boxes.gather(1, roi[..., None].expand(-1, -1, 4)),
            self._deltas(answers, roi, class_ids, plan),
            limits[:, None],
        )
        keep = batched_nms_triton(boxes, scores >= 0, controls.nms_iou, class_ids.int())
        is_cut = (~too_low).flatten(1).sum(dim=1) > plan.pairs
        return _compact(boxes, scores, class_ids, keep, is_cut, controls, plan)

    def _probabilities(self, answers: Tensor, plan: DetectPlan) -> Tensor:
        """(B, R, classes) float32, without the background, which comes last."""
        logits = answers[:, : self.num_classes + 1]
        every = logits.softmax(dim=1, dtype=torch.float32)
        return every[:, :-1].reshape(plan.batch, plan.proposals, self.num_classes)

    def _deltas(self, answers: Tensor, roi: Tensor, class_ids: Tensor, plan: DetectPlan) -> Tensor:
        """(B, P, 4) float32 of each pair, multiplied with their stds."""
        first = roi * answers.shape[1] + class_ids * 4 + self.num_classes + 1
        columns = (first[..., None] + self._delta).flatten(1)
        own = answers.view(plan.batch, -1).gather(1, columns)
        return own.view(plan.batch, -1, 4).float() * self._stds


class MaskStage:
    """`MaskHead`, only the predicted class of each object."""

    def __init__(self, head: MaskHead, *, dtype: torch.dtype, device: torch.device | str) -> None:
        self._convs = [Weights.of(own, dtype=dtype, device=device) for own in head.convs]
        upsample = Weights.of(head.upsample, dtype=dtype, device=device)
        # each cell becomes 2 x 2 cells: one product with (row, column, channel) as its columns
        self._upsample = Weights(
            upsample.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous(),
            upsample.bias.repeat(4),
        )
        self._classify = Weights.of(head.classify, dtype=dtype, device=device)

    def __call__(self, pyramid: Sequence[Tensor], found: DetectTensors, plan: DetectPlan) -> Tensor:
        """(B, M, 28, 28) float32 logits; rows beyond the counts are zero."""
        present = plan.slot[: plan.capacity] < found.counts[:, None]
        x = to_nchw(pool(pyramid, found.boxes, present, plan, size=MASK_POOL))
        for own in self._convs:
            x = conv_relu(x, own)
        cells = to_nhwc(x).reshape(-1, x.shape[1])
        rows = plan.batch * plan.capacity
        fine = linear_relu(cells, self._upsample).view(rows, -1, x.shape[1])
        classes = found.class_ids.flatten()
        own_weight = self._classify.weight.index_select(0, classes)
        own_bias = self._classify.bias.index_select(0, classes)
        logits = (fine @ own_weight[..., None]).squeeze(-1).float() + own_bias[:, None]
        logits = logits.masked_fill_(~present.view(-1, 1), 0.0)
        # (row, column, row in the cell, column in the cell) -> (row, column)
        by_cell = logits.view(rows, MASK_POOL, MASK_POOL, 2, 2).transpose(2, 3)
        side = 2 * MASK_POOL
        return by_cell.reshape(plan.batch, plan.capacity, side, side)


def _compact(
    boxes: Tensor,
    scores: Tensor,
    class_ids: Tensor,
    keep: Tensor,
    is_cut: Tensor,
    controls: DetectControls,
    plan: DetectPlan,
) -> DetectTensors:
    """The best survivors of P pairs as the first rows of M."""
    found = torch.minimum(keep.sum(dim=1), controls.max_detections)
    counts = found.clamp(max=plan.capacity)
    ranked, index = largest(scores.masked_fill(~keep, -1.0), plan.capacity)
    absent = plan.slot[: plan.capacity] >= counts[:, None]
    own = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return DetectTensors(
        boxes=own.masked_fill_(absent[..., None], 0.0),
        scores=ranked.masked_fill_(absent, 0.0),
        class_ids=class_ids.gather(1, index).masked_fill_(absent, 0).int(),
        counts=counts.int(),
        mask_logits=None,
        is_truncated=(is_cut & (found < controls.max_detections)) | (found > plan.capacity),
    )
