"""Assignment, sampling and losses of the detector."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from demo.compose import Composer
from demo.training.augment import normalise, to_float
from demo.training.detection_losses import (
    Sampling,
    Targets,
    assign_anchors,
    choose,
    detection_losses,
    mask_targets,
    sample_rois,
)
from demo.training.sources import Scenes
from model.config import BackboneConfig, HeadConfig, InputConfig, Variant
from model.mask_rcnn import MaskRCNN
from model.results import DetectParams

SMALL = Variant(
    backbone=BackboneConfig(dims=(16, 32, 64, 128), depths=(1, 1, 1, 1)),
    heads=HeadConfig(fpn_channels=32, box_fc_channels=64, mask_convs=1),
)


def targets(boxes: list[list[float]], labels: list[int], side: int = 64) -> Targets:
    instances = torch.zeros(1, side, side, dtype=torch.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        if labels[i] >= 0:
            instances[0, int(y1) : int(y2), int(x1) : int(x2)] = i + 1
    return Targets(torch.tensor([boxes]), torch.tensor([labels]), instances)


PADDING = [0.0, 0.0, 0.0, 0.0]


def test_anchors_are_assigned_by_overlap() -> None:
    wanted = targets([[10.0, 10.0, 30.0, 30.0], PADDING], [2, -1])
    anchors = torch.tensor(
        [
            [10.0, 10.0, 30.0, 29.0],  # IoU 0.95: positive
            [10.0, 10.0, 30.0, 20.0],  # IoU 0.50: neither
            [40.0, 40.0, 60.0, 60.0],  # IoU 0: negative
        ]
    )
    positive, negative, matched = assign_anchors(anchors, wanted)
    assert positive.tolist() == [[True, False, False]]
    assert negative.tolist() == [[False, False, True]]
    assert matched[0, 0] == 0


def test_an_object_gets_its_best_anchor_even_if_that_is_poor() -> None:
    wanted = targets([[10.0, 10.0, 30.0, 30.0], [40.0, 40.0, 60.0, 60.0]], [0, 1])
    anchors = torch.tensor([[10.0, 10.0, 30.0, 30.0], [40.0, 40.0, 60.0, 49.0]])
    positive, negative, matched = assign_anchors(anchors, wanted)
    assert positive.tolist() == [[True, True]]
    assert not negative.any()
    assert matched.tolist() == [[0, 1]]


def test_choose_takes_set_positions_only() -> None:
    mask = torch.zeros(2, 50, dtype=torch.bool)
    mask[0, [3, 7, 11]] = True
    mask[1] = True
    index, real = choose(mask, 5)
    assert sorted(index[0][real[0]].tolist()) == [3, 7, 11]
    assert real[1].all()
    assert len(set(index[1].tolist())) == 5


def test_rois_come_positives_first_and_padding_never_counts() -> None:
    wanted = targets([[10.0, 10.0, 30.0, 30.0], PADDING], [2, -1])
    proposals = torch.tensor([[[9.0, 9.0, 30.0, 30.0], [40.0, 40.0, 60.0, 60.0]]])
    sampling = Sampling(rois=6, roi_positives=3)
    valid = torch.ones(1, 2, dtype=torch.bool)
    rois, labels, objects, usable = sample_rois(proposals, valid, wanted, sampling)
    # the proposal and the object itself are positive
    assert labels[0].tolist() == [2, 2, -1, -1, -1, -1]
    assert usable[0].tolist() == [True, True, False, True, False, False]
    assert objects[0, :2].tolist() == [0, 0]
    assert rois[0, 3].tolist() == [40.0, 40.0, 60.0, 60.0]


def test_mask_targets_are_the_object_inside_its_roi() -> None:
    wanted = targets([[10.0, 10.0, 30.0, 30.0], [20.0, 10.0, 30.0, 30.0]], [0, 1])
    rois = torch.tensor([[[10.0, 10.0, 30.0, 30.0]]])
    first = mask_targets(rois, torch.tensor([[0]]), wanted.instances)[0]
    second = mask_targets(rois, torch.tensor([[1]]), wanted.instances)[0]
    # the second object covers the right half of the first
    assert first[:, :14].all()
    assert not first[:, 14:].any()
    assert torch.equal(first + second, torch.ones(28, 28))


def overfit(pack: Path, steps: int) -> tuple[list[float], MaskRCNN, torch.Tensor, Targets]:
    torch.manual_seed(0)
    source = Scenes(pack, 128, seed=3)
    samples = source(0)
    batch = [next(samples) for _ in range(2)]
    config = InputConfig(short=128)
    stacked = {name: torch.from_numpy(np.stack([s[name] for s in batch])) for name in batch[0]}
    images = normalise(to_float(stacked["image"]), config.mean, config.std)
    wanted = Targets(stacked["boxes"], stacked["labels"], stacked["instances"])
    network = MaskRCNN(SMALL, 3).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    sampling = Sampling(candidates_per_level=40, proposals=60, rois=32, roi_positives=12)
    totals = []
    for _ in range(steps):
        parts = detection_losses(network, images, wanted, sampling)
        assert set(parts) == {"rpn_class", "rpn_box", "class", "box", "mask"}
        total = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    return totals, network.eval(), images, wanted


@pytest.mark.nightly
def test_the_detector_learns_two_scenes_by_heart(pack: Path) -> None:
    totals, network, images, wanted = overfit(pack, 90)
    assert np.isfinite(totals).all()
    assert np.mean(totals[-5:]) < 0.35 * np.mean(totals[:3])
    with torch.inference_mode():
        found = network(images, [(128, 128)] * 2, [DetectParams()] * 2)
    for raw, boxes, labels in zip(found, wanted.boxes, wanted.labels, strict=True):
        for box, label in zip(boxes[labels >= 0], labels[labels >= 0], strict=True):
            same = raw.boxes[raw.class_ids == label]
            assert box_iou(same, box[None]).amax() > 0.5


def test_scenes_are_padded_with_unused_objects(pack: Path) -> None:
    sample = next(Scenes(pack, 96, seed=1)(0))
    scene = Composer(pack, 96, seed=1).scene()
    count = len(scene["labels"])
    assert sample["labels"].tolist() == [*scene["labels"].tolist(), *[-1] * (8 - count)]
    assert np.array_equal(sample["boxes"][:count], scene["boxes"])
    assert int(sample["instances"].max()) == count
    for i, mask in enumerate(scene["masks"]):
        assert np.array_equal(sample["instances"] == i + 1, mask)


@pytest.mark.parametrize("objects", [0, 8])
def test_losses_are_finite_without_and_with_many_objects(objects: int) -> None:
    torch.manual_seed(0)
    network = MaskRCNN(SMALL, 3)
    boxes, labels = torch.zeros(1, 8, 4), torch.full((1, 8), -1)
    instances = torch.zeros(1, 64, 64, dtype=torch.uint8)
    for i in range(objects):
        boxes[0, i] = torch.tensor([4.0 * i, 4.0 * i, 4.0 * i + 20, 4.0 * i + 24])
        labels[0, i] = i % 3
    parts = detection_losses(
        network, torch.randn(1, 3, 64, 64), Targets(boxes, labels, instances), Sampling()
    )
    torch.stack(list(parts.values())).sum().backward()
    assert all(torch.isfinite(value) for value in parts.values())
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
