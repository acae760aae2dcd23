"""Networks of the demo size with random weights: shapes, batching, compilation, operators."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels import REFERENCE
from model.backbone import Backbone
from model.checkpoint import build_network
from model.config import BackboneConfig, InputConfig, ModelSpec, TaskName, variant
from model.inference import optimise_for_inference
from model.predictor import Predictor
from model.results import (
    Classification,
    ClassifyParams,
    Detections,
    DetectParams,
    Params,
    Segmentation,
    SegmentParams,
)

INPUTS = {
    TaskName.CLASSIFY: InputConfig(short=64, crop=64),
    TaskName.DETECT: InputConfig(short=64, long=107, pad_multiple=32),
    TaskName.SEGMENT: InputConfig(short=64, long=256),
}
PARAMS: dict[TaskName, Params] = {
    TaskName.CLASSIFY: ClassifyParams(),
    TaskName.DETECT: DetectParams(score_threshold=0.12, max_detections=20),
    TaskName.SEGMENT: SegmentParams(),
}
TASKS = list(TaskName)


def make_spec(task: TaskName) -> ModelSpec:
    return ModelSpec(
        name=f"test-{task}",
        task=task,
        variant="demo",
        class_names=tuple(f"class {i}" for i in range(7)),
        input=INPUTS[task],
    )


def make_predictor(task: TaskName, *, reference: bool = False) -> Predictor:
    torch.manual_seed(11)
    network = build_network(make_spec(task))
    # random statistics: a folded BatchNorm must matter
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    if reference:
        truth = build_network(make_spec(task), ops=REFERENCE)
        truth.load_state_dict(network.state_dict())
        network = truth
    return Predictor(network, make_spec(task))


def make_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (33, 47), (64, 64), (97, 131)])
def test_any_image_size_gives_an_answer_of_that_size(task: TaskName, size: tuple[int, int]) -> None:
    predictor = make_predictor(task)
    prepared = predictor.prepare(make_photo(*size))
    result = predictor.finish(predictor.infer([prepared], [PARAMS[task]])[0], prepared)
    if isinstance(result, Classification):
        assert result.probabilities.shape == (7,)
        assert result.probabilities.sum() == pytest.approx(1, abs=1e-5)
    elif isinstance(result, Segmentation):
        assert result.label_map.shape == size
        assert result.label_map.max() < 7
    else:
        assert isinstance(result, Detections)
        assert result.masks is not None
        assert len(result.masks) == len(result.boxes)
        limit = np.array([size[1], size[0], size[1], size[0]]) + 1e-3
        assert (result.boxes >= 0).all()
        assert (result.boxes <= limit).all()
        assert all((rle.height, rle.width) == size for rle in result.masks)


@pytest.mark.parametrize("task", TASKS)
def test_an_answer_does_not_depend_on_its_neighbours(task: TaskName) -> None:
    predictor = make_predictor(task)
    batch = [predictor.prepare(make_photo(70, 90, seed)) for seed in range(3)]
    batch.append(batch[0])
    together = predictor.infer(batch, [PARAMS[task]] * 4)
    for prepared, raw in zip(batch, together, strict=True):
        alone = predictor.infer([prepared], [PARAMS[task]])[0]
        if task is TaskName.DETECT:
            assert torch.equal(raw.class_ids, alone.class_ids)
            torch.testing.assert_close(raw.boxes, alone.boxes, rtol=0, atol=1e-3)
            torch.testing.assert_close(raw.mask_logits, alone.mask_logits, rtol=0, atol=1e-4)
        else:
            torch.testing.assert_close(raw, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_the_served_operators_agree_with_the_truth(task: TaskName) -> None:
    photo = make_photo(66, 66)
    raws = []
    for reference in (False, True):
        predictor = make_predictor(task, reference=reference)
        raws.append(predictor.infer([predictor.prepare(photo)], [PARAMS[task]])[0])
    if task is TaskName.DETECT:
        torch.testing.assert_close(raws[0].boxes, raws[1].boxes, rtol=0, atol=1e-3)
    else:
        torch.testing.assert_close(raws[0], raws[1], rtol=1e-4, atol=1e-5)


def test_folding_changes_nothing() -> None:
    torch.manual_seed(2)
    network = build_network(make_spec(TaskName.SEGMENT)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.3, 2)
    folded = optimise_for_inference(copy.deepcopy(network).double())
    images = torch.randn(1, 3, 50, 41, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), network.double()(images))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())


@pytest.mark.parametrize("size", [pytest.param((32, 32), marks=pytest.mark.nightly), (61, 35)])
def test_the_backbone_compiles_in_one_graph(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = Backbone(variant("demo").backbone).eval()
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        expected, got = backbone(images), compiled(images)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_feature_maps_have_the_sizes_of_their_strides() -> None:
    maps = Backbone(variant("demo").backbone).eval()(torch.randn(1, 3, 67, 35))
    assert [tuple(x.shape) for x in maps] == [
        (1, 17, 9, 32),
        (1, 9, 5, 64),
        (1, 5, 3, 128),
        (1, 3, 2, 256),
    ]


def test_every_parameter_learns() -> None:
    torch.manual_seed(4)
    network = build_network(make_spec(TaskName.CLASSIFY))
    network(torch.randn(2, 3, 40, 40)).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_detection_parameters_act_per_image() -> None:
    predictor = make_predictor(TaskName.DETECT)
    prepared = predictor.prepare(make_photo(80, 80))
    own = [
        DetectParams(score_threshold=0.12, max_detections=3),
        DetectParams(score_threshold=0.12, with_masks=False),
        DetectParams(score_threshold=0.99),
        DetectParams(score_threshold=0.12, max_proposals=5, nms_iou=0.9),
    ]
    few, unmasked, none, _ = predictor.infer([prepared] * 4, own)
    assert len(few.boxes) == 3
    assert few.mask_logits.shape == (3, 28, 28)
    assert unmasked.mask_logits is None
    assert len(unmasked.boxes) > 3
    assert torch.equal(few.boxes, unmasked.boxes[:3])
    assert len(none.boxes) == 0
    assert none.mask_logits.shape == (0, 28, 28)
    assert predictor.finish(none, prepared).masks == ()


def test_batches_of_mixed_shapes_are_refused() -> None:
    predictor = make_predictor(TaskName.SEGMENT)
    batch = [predictor.prepare(make_photo(64, side)) for side in (64, 100)]
    with pytest.raises(ValueError, match="one shape"):
        predictor.infer(batch, [SegmentParams()] * 2)
    with pytest.raises(ValueError, match="one params per image"):
        predictor.infer(batch[:1], [])
    detector = make_predictor(TaskName.DETECT)
    prepared = detector.prepare(make_photo(64, 64))
    with pytest.raises(TypeError, match="DetectParams"):
        detector.infer([prepared], [SegmentParams()])


def test_other_state_sizes_are_refused() -> None:
    config: BackboneConfig = replace(variant("demo").backbone, state_dim=4)
    with pytest.raises(ValueError, match="state size 1"):
        Backbone(config)


def test_networks_can_be_copied() -> None:
    network = build_network(make_spec(TaskName.CLASSIFY)).eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(copy.deepcopy(network)(images), network(images))
