"""Single steps of Mask R-CNN: numbers in, numbers out, against the published implementation."""

import numpy as np
import pytest
import torch

from model.boxes import (
    ANCHOR_STRIDES,
    ROI_STDS,
    decode_boxes,
    encode_boxes,
    level_anchors,
)
from model.masks import MaskPatch, paste_mask, patch_to_rle, rle_to_mask
from model.resizing import keep_ratio_size, short_side_size
from model.results import DetectParams
from model.roi_heads import assign_levels, pool_rois, select_detections
from model.rpn import select_proposals
from tests.model import golden


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_proposals() -> None:
    info, arrays = golden.load_case("unit_rpn")
    ref = tensors(arrays)
    boxes, scores = select_proposals(
        [ref[f"cls{i}"] for i in range(5)],
        [ref[f"reg{i}"] for i in range(5)],
        tuple(info["image_hw"]),
        max_proposals=1000,
    )
    tolerance = info["tolerance"]["fp32"]
    torch.testing.assert_close(boxes, ref["proposals"], rtol=0, atol=tolerance["box_abs"])
    torch.testing.assert_close(scores, ref["proposal_scores"], rtol=0, atol=tolerance["score"])
    torch.testing.assert_close(level_anchors(12, 16, ANCHOR_STRIDES[2]), ref["anchors2"])


def test_roi_levels_and_pooling() -> None:
    info, arrays = golden.load_case("unit_roi")
    ref = tensors(arrays)
    assert torch.equal(assign_levels(ref["rois"]), ref["level"])
    pyramid = [ref[f"feat{i}"].unsqueeze(0) for i in range(4)]
    tolerance = info["tolerance"]["fp32"]
    for size in (7, 14):
        pooled = pool_rois(pyramid, [ref["rois"]], size)
        torch.testing.assert_close(pooled, ref[f"out{size}"], **tolerance)


def test_final_boxes() -> None:
    info, arrays = golden.load_case("unit_rcnn")
    ref = tensors(arrays)
    boxes, scores, labels = select_detections(
        ref["rois"], ref["cls"], ref["reg"], tuple(info["image_hw"]), DetectParams()
    )
    tolerance = info["tolerance"]["fp32"]
    assert torch.equal(labels, ref["labels"])
    torch.testing.assert_close(boxes, ref["boxes"], rtol=0, atol=tolerance["box_abs"])
    torch.testing.assert_close(scores, ref["scores"], rtol=0, atol=tolerance["score"])


def test_pasted_masks() -> None:
    info, arrays = golden.load_case("unit_masks")
    compare = golden.module("compare")
    expected = compare.unpack_bits(arrays["masks"], info["masks_shape"])
    edge = compare.unpack_bits(arrays["edge"], info["masks_shape"])
    ref = tensors(arrays)
    hw = tuple(info["image_hw"])
    for i, (logits, box) in enumerate(zip(ref["mask_logits"], ref["boxes"], strict=True)):
        got = rle_to_mask(patch_to_rle(paste_mask(logits, box, hw), hw))
        assert not ((got != expected[i]) & ~edge[i]).any(), f"mask {i}"


def test_resized_sizes() -> None:
    _, arrays = golden.load_case("unit_sizes")
    for width, height, det_w, det_h, seg_w, seg_h, cls_w, cls_h in arrays["sizes"].tolist():
        assert keep_ratio_size(height, width, long=1333, short=800) == (det_h, det_w)
        assert keep_ratio_size(height, width, long=2048, short=512) == (seg_h, seg_w)
        assert short_side_size(height, width, 256) == (cls_h, cls_w)


def test_encoding_is_the_inverse_of_decoding() -> None:
    rng = torch.Generator().manual_seed(3)
    corners = torch.rand(50, 2, 2, generator=rng) * 80
    anchors = torch.cat((corners[:, 0], corners[:, 0] + 5 + corners[:, 1]), dim=1)
    boxes = anchors + torch.rand(50, 4, generator=rng) * 4
    deltas = encode_boxes(anchors, boxes, ROI_STDS)
    back = decode_boxes(anchors, deltas, ROI_STDS, (1000, 1000))
    torch.testing.assert_close(back, boxes, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("hw", [(1, 1), (1, 7), (9, 1), (6, 5)])
@pytest.mark.parametrize("fill", ["empty", "full", "random"])
def test_run_lengths_agree_with_pycocotools(hw: tuple[int, int], fill: str) -> None:
    from pycocotools import mask as coco

    rng = np.random.default_rng(5)
    for _ in range(20):
        pixels = {
            "empty": np.zeros(hw, bool),
            "full": np.ones(hw, bool),
            "random": rng.random(hw) < 0.5,
        }[fill]
        rle = patch_to_rle(MaskPatch(pixels, 0, 0), hw)
        expected = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
        assert rle.counts == expected["counts"].decode()
        assert np.array_equal(rle_to_mask(rle), pixels)


def test_a_patch_away_from_the_origin_lands_where_it_says() -> None:
    pixels = np.array([[1, 0, 1], [1, 1, 1]], bool)
    full = np.zeros((7, 9), bool)
    full[4:6, 5:8] = pixels
    assert np.array_equal(rle_to_mask(patch_to_rle(MaskPatch(pixels, 4, 5), (7, 9))), full)


@pytest.mark.parametrize("box", [(3.0, 3, 3, 9), (5, 5, 4, 4), (-40, -40, -30, -30)])
def test_boxes_without_area_or_outside_give_empty_masks(box: tuple[float, ...]) -> None:
    patch = paste_mask(torch.full((28, 28), 9.0), torch.tensor(box, dtype=torch.float32), (20, 20))
    assert not patch.pixels.any()
    assert not rle_to_mask(patch_to_rle(patch, (20, 20))).any()


def test_levels_without_rois_and_images_without_rois_are_fine() -> None:
    pyramid = [torch.rand(2, 3, 32 // 2**i, 32 // 2**i) for i in range(5)]
    pooled = pool_rois(pyramid, [torch.zeros(0, 4), torch.tensor([[0.0, 0, 9, 9]])], 7)
    alone = pool_rois([x[1:] for x in pyramid], [torch.tensor([[0.0, 0, 9, 9]])], 7)
    assert torch.equal(pooled, alone)
    assert pool_rois(pyramid, [torch.zeros(0, 4)] * 2, 7).shape == (0, 3, 7, 7)
