"""The device form of Mask R-CNN against the module; demo size, random weights, random maps."""

from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from kernels.roi_align.reference import roi_align_ref
from model.boxes import ROI_STDS, RPN_STDS, decode_boxes
from model.compiled import proposals, roi_stage
from model.compiled.detect_types import DetectControls, DetectTensors
from model.compiled.detector import CompiledDetectorHead
from model.compiled.mask_runs import encode_image, find_runs
from model.compiled.proposals import PyramidStage, decode_and_clip
from model.config import variant
from model.inference import optimise_for_inference
from model.layers import to_nchw
from model.mask_rcnn import MaskRCNN, RawDetections
from model.masks import paste_mask, patch_to_rle
from model.results import DetectParams
from model.tasks.detect import to_original

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLASSES = 7
CANDIDATES = 48
PROPOSALS = 20
MAP_HWS = [(32, 48), (16, 24), (8, 12), (4, 6)]
IMAGE_HWS = [(128, 192), (100, 181)]
PARAMS = [
    DetectParams(score_threshold=0.2, nms_iou=0.4, max_detections=12, max_proposals=PROPOSALS),
    DetectParams(score_threshold=0.15, nms_iou=0.6, max_detections=9, max_proposals=13),
]


class FixedMaps(nn.Module):
    """Stands in for the backbone."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        return self.maps


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that is compared with runs on the CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def network() -> MaskRCNN:
    torch.manual_seed(5)
    network = MaskRCNN(variant("demo"), CLASSES)
    # answers that differ from place to place, far enough apart for rounding not to matter
    for layer, factor in (
        (network.rpn.objectness, 30.0),
        (network.rpn.deltas, 10.0),
        (network.box_head.fc1, 6.0),
        (network.box_head.fc2, 3.0),
        (network.box_head.classify, 12.0),
        (network.box_head.regress, 12.0),
        (network.mask_head.classify, 20.0),
    ):
        layer.weight.data.mul_(factor)
    optimise_for_inference(network)
    return network


@pytest.fixture
def head(network: MaskRCNN) -> CompiledDetectorHead:
    return make_head(network)


@pytest.fixture
def slow_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter would take most of the time in a kernel that has tests of its own."""
    if DEVICE == "cpu":
        monkeypatch.setattr(roi_stage, "roi_align_triton", roi_align_ref)


def make_head(
    network: MaskRCNN, *, candidates: int = CANDIDATES, pairs: int = 80
) -> CompiledDetectorHead:
    return CompiledDetectorHead(
        network,
        dtype=torch.float32,
        device=DEVICE,
        candidates=candidates,
        proposals=PROPOSALS,
        pairs=pairs,
    )


def make_maps(batch: int = 2) -> list[Tensor]:
    rng = torch.Generator().manual_seed(8)
    dims = variant("demo").backbone.dims
    return [
        torch.randn(batch, *hw, dim, generator=rng) for hw, dim in zip(MAP_HWS, dims, strict=True)
    ]


def run(
    head: CompiledDetectorHead,
    maps: Sequence[Tensor],
    image_hws: Sequence[tuple[int, int]],
    params: Sequence[DetectParams],
    *,
    capacity: int = 12,
    with_masks: bool = True,
) -> DetectTensors:
    plan = head.plan(len(params), MAP_HWS, capacity=capacity, with_masks=with_masks)
    controls = DetectControls.of(image_hws, params, device=DEVICE)
    found = head([x.to(DEVICE) for x in maps], controls, plan)
    moved = {field.name: getattr(found, field.name) for field in fields(found)}
    return DetectTensors(**{k: None if x is None else x.cpu() for k, x in moved.items()})


def expected(
    network: MaskRCNN,
    maps: Sequence[Tensor],
    image_hws: Sequence[tuple[int, int]],
    params: Sequence[DetectParams],
    monkeypatch: pytest.MonkeyPatch,
) -> list[RawDetections]:
    monkeypatch.setattr("model.rpn.CANDIDATES_PER_LEVEL", CANDIDATES)
    network.backbone = FixedMaps(maps)
    with torch.inference_mode():
        return network(torch.zeros(len(params), 3, 1, 1), image_hws, params)


def assert_image_is(found: DetectTensors, image: int, truth: RawDetections) -> None:
    count = int(found.counts[image])
    assert count == len(truth.boxes)
    assert found.class_ids[image, :count].tolist() == truth.class_ids.tolist()
    # float32 convolutions sum in other orders on a GPU and on some CPUs: 1.3e-4 of a score was seen
    near = 1e-3
    torch.testing.assert_close(found.scores[image, :count], truth.scores, rtol=1e-4, atol=near)
    torch.testing.assert_close(found.boxes[image, :count], truth.boxes, rtol=1e-4, atol=200 * near)
    rest = [found.boxes, found.scores, found.class_ids]
    if truth.mask_logits is not None:
        assert found.mask_logits is not None
        logits = found.mask_logits[image, :count]
        torch.testing.assert_close(logits, truth.mask_logits, rtol=1e-3, atol=200 * near)
        rest.append(found.mask_logits)
    assert not any(x[image, count:].any() for x in rest)


@pytest.mark.usefixtures("slow_pooling")
def test_answers_are_those_of_the_module(
    network: MaskRCNN, head: CompiledDetectorHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = make_maps()
    found = run(head, maps, IMAGE_HWS, PARAMS)
    truth = expected(network, maps, IMAGE_HWS, PARAMS, monkeypatch)
    assert all(len(own.boxes) >= 5 for own in truth)
    assert len(set(truth[0].class_ids.tolist())) > 1
    for image in range(2):
        assert_image_is(found, image, truth[image])
    assert not found.is_truncated.any()
    assert [x.dtype for x in (found.class_ids, found.counts)] == [torch.int32] * 2


# the whole predictor has it in every run
@pytest.mark.nightly
def test_with_the_pooling_kernel(
    network: MaskRCNN, head: CompiledDetectorHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = [replace(PARAMS[0], max_proposals=5, max_detections=3)]
    maps = make_maps(1)
    found = run(head, maps, IMAGE_HWS[:1], params, capacity=4)
    truth = expected(network, maps, IMAGE_HWS[:1], params, monkeypatch)
    assert len(truth[0].boxes) > 0
    assert_image_is(found, 0, truth[0])


@pytest.mark.usefixtures("slow_pooling")
def test_an_image_does_not_depend_on_the_others(head: CompiledDetectorHead) -> None:
    maps = make_maps()
    together = run(head, maps, IMAGE_HWS, PARAMS)
    for i in range(2):
        own = slice(i, i + 1)
        alone = run(head, [x[own] for x in maps], IMAGE_HWS[own], PARAMS[own])
        for field in fields(alone):
            a, b = getattr(alone, field.name), getattr(together, field.name)[own]
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("slow_pooling")
def test_no_detections_at_all(head: CompiledDetectorHead) -> None:
    params = [replace(own, score_threshold=1.0) for own in PARAMS]
    found = run(head, make_maps(), IMAGE_HWS, params)
    assert found.counts.tolist() == [0, 0]
    assert found.mask_logits is not None
    assert not any(x.any() for x in (found.boxes, found.scores, found.class_ids))
    assert not found.mask_logits.any()
    assert not found.is_truncated.any()


@pytest.mark.usefixtures("slow_pooling")
def test_a_batch_may_be_filled_up_with_empty_images(head: CompiledDetectorHead) -> None:
    maps = make_maps()
    found = run(head, maps, [IMAGE_HWS[0], (0, 0)], PARAMS)
    alone = run(head, [x[:1] for x in maps], IMAGE_HWS[:1], PARAMS[:1])
    assert found.counts.tolist() == [int(alone.counts[0]), 0]
    torch.testing.assert_close(found.boxes[:1], alone.boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("slow_pooling")
def test_without_masks(head: CompiledDetectorHead) -> None:
    maps = make_maps()
    found = run(head, maps, IMAGE_HWS, PARAMS, with_masks=False)
    assert found.mask_logits is None
    assert torch.equal(found.boxes, run(head, maps, IMAGE_HWS, PARAMS).boxes)


@pytest.mark.usefixtures("slow_pooling")
def test_max_detections_keeps_the_first(head: CompiledDetectorHead) -> None:
    maps = make_maps()
    everything = run(head, maps, IMAGE_HWS, PARAMS, with_masks=False)
    params = [replace(own, max_detections=limit) for own, limit in zip(PARAMS, (1, 4), strict=True)]
    few = run(head, maps, IMAGE_HWS, params, with_masks=False)
    assert few.counts.tolist() == [1, 4]
    for i, limit in enumerate((1, 4)):
        assert torch.equal(few.boxes[i, :limit], everything.boxes[i, :limit])
        assert not few.boxes[i, limit:].any()
    assert not few.is_truncated.any()


@pytest.mark.usefixtures("slow_pooling")
def test_truncation_is_told_and_only_when_it_matters(
    network: MaskRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = make_maps()
    # everything is above the threshold: 20 x 7 and 13 x 7 pairs, of which 40 compete
    params = [replace(own, score_threshold=0.0, nms_iou=0.01) for own in PARAMS]
    params[1] = replace(params[1], max_detections=3)
    found = run(make_head(network, pairs=40), maps, IMAGE_HWS, params, capacity=40)
    params[0] = replace(params[0], max_detections=40)
    cut = run(make_head(network, pairs=40), maps, IMAGE_HWS, params, capacity=40)
    truth = expected(network, maps, IMAGE_HWS, params, monkeypatch)
    assert found.is_truncated.tolist() == [False, False]
    assert cut.is_truncated.tolist() == [True, False]
    count = int(cut.counts[0])
    assert count < len(truth[0].boxes), "the case does not show the cap"
    torch.testing.assert_close(cut.boxes[0, :count], truth[0].boxes[:count], rtol=1e-4, atol=2e-3)
    assert_image_is(cut, 1, truth[1])


@pytest.mark.usefixtures("slow_pooling")
def test_more_detections_than_rows_is_told(head: CompiledDetectorHead) -> None:
    found = run(head, make_maps(), IMAGE_HWS, PARAMS, capacity=4, with_masks=False)
    assert found.counts.tolist() == [4, 4]
    assert found.is_truncated.tolist() == [True, True]


@pytest.mark.usefixtures("slow_pooling")
def test_run_lengths_are_those_of_the_pasted_masks(head: CompiledDetectorHead) -> None:
    original_hws = [(53, 77), (60, 41)]
    found = run(head, make_maps(), IMAGE_HWS, PARAMS)
    scale = torch.tensor(
        [
            [resized[1] / original[1], resized[0] / original[0]] * 2
            for resized, original in zip(IMAGE_HWS, original_hws, strict=True)
        ]
    )
    on_device = [getattr(found, field.name).to(DEVICE) for field in fields(found)]
    runs = find_runs(
        DetectTensors(*on_device),
        scale.to(DEVICE),
        torch.tensor(original_hws, dtype=torch.int32, device=DEVICE),
        columns=77,
        capacity=20_000,
    )
    edges, ends = runs.edges.cpu().numpy(), runs.ends.cpu().numpy()
    assert found.mask_logits is not None
    for i, (resized, original) in enumerate(zip(IMAGE_HWS, original_hws, strict=True)):
        count = int(found.counts[i])
        boxes = to_original(found.boxes[i, :count], resized, original)
        masks = zip(found.mask_logits[i, :count], boxes, strict=True)
        truth = [patch_to_rle(paste_mask(*mask, original), original) for mask in masks]
        assert encode_image(edges, ends, i, count, original) == tuple(truth)
    with pytest.raises(ValueError, match="edges were found, only 3 are here"):
        encode_image(edges[:3], ends, 0, 1, original_hws[0])


def test_run_lengths_need_masks() -> None:
    nothing = torch.zeros(1, 0)
    found = DetectTensors(*[nothing] * 4, mask_logits=None, is_truncated=nothing)
    with pytest.raises(ValueError, match="need mask logits"):
        find_runs(found, nothing, nothing, columns=1, capacity=1)


def test_pyramid_has_the_maps_of_the_module(network: MaskRCNN) -> None:
    # odd sizes: up-sampling to them is not a plain doubling
    hws = [(15, 22), (8, 11), (4, 6), (2, 3)]
    dims = variant("demo").backbone.dims
    maps = [torch.randn(2, *hw, dim) for hw, dim in zip(hws, dims, strict=True)]
    stage = PyramidStage(network.fpn, dtype=torch.float32, device=DEVICE)
    with torch.inference_mode():
        found = stage([x.to(DEVICE) for x in maps])
        truth = network.fpn([to_nchw(x) for x in maps])
    for own, expected_map in zip(found, truth, strict=True):
        torch.testing.assert_close(own.cpu(), expected_map, rtol=1e-3, atol=1e-4)


def test_boxes_are_decoded_as_by_the_module() -> None:
    rng = torch.Generator().manual_seed(6)
    corners = torch.rand(2, 50, 2, 2, generator=rng) * 90
    anchors = torch.cat((corners.amin(dim=2), corners.amax(dim=2)), dim=2)
    # scales far beyond their limit, centres far outside the image
    deltas = torch.randn(2, 50, 4, generator=rng) * 4
    hws = [(64, 80), (40, 99)]
    limits = torch.tensor([[width, height] * 2 for height, width in hws])
    found = decode_and_clip(anchors, deltas * torch.tensor(ROI_STDS), limits[:, None])
    for i, hw in enumerate(hws):
        assert torch.equal(found[i], decode_boxes(anchors[i], deltas[i], ROI_STDS, hw))
    found = decode_and_clip(anchors, deltas, limits[:, None])
    assert torch.equal(found[0], decode_boxes(anchors[0], deltas[0], RPN_STDS, hws[0]))


def test_nothing_depends_on_values(network: MaskRCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without data: whatever reads a value or makes a shape from one raises."""
    for module in ("proposals", "roi_stage"):
        monkeypatch.setattr(
            f"model.compiled.{module}.batched_nms_triton",
            lambda boxes, valid, *_: torch.empty_like(valid),
        )
    monkeypatch.setattr(
        roi_stage,
        "roi_align_triton",
        lambda maps, rois, images, chosen, size: maps[0].new_empty(
            (len(rois), size, size, maps[0].shape[3])
        ),
    )
    monkeypatch.setattr(
        proposals,
        "nearest_triton",
        lambda x, size, _: x.new_empty((x.shape[0], *size, x.shape[3])),
    )
    monkeypatch.setattr(proposals, "add_bias_", lambda x, _: x)
    head = CompiledDetectorHead(network, dtype=torch.float32, device="meta")
    plan = head.plan(2, [(200, 336), (100, 168), (50, 84), (25, 42)])
    maps = [
        torch.empty(2, *hw, dim, device="meta")
        for hw, dim in zip(plan.level_hws, variant("demo").backbone.dims, strict=False)
    ]
    found = head(maps, DetectControls.of(IMAGE_HWS, PARAMS, device="meta"), plan)
    assert found.boxes.shape == (2, 100, 4)
    assert found.mask_logits is not None
    assert found.mask_logits.shape == (2, 100, 28, 28)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_one_graph_holds_it_all(head: CompiledDetectorHead) -> None:
    maps = [x.to(DEVICE) for x in make_maps()]
    plan = head.plan(2, MAP_HWS, capacity=12)
    # captured for an image without detections, so that nothing can be left over from the capture
    nobody = [replace(own, score_threshold=1.0) for own in PARAMS]
    controls = DetectControls.of(IMAGE_HWS, nobody, device=DEVICE)
    head(maps, controls, plan)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = head(maps, controls, plan)
    for params in (PARAMS, PARAMS[::-1]):
        flipped = [x.flip(0) for x in maps]
        for x, new in zip(maps, flipped, strict=True):
            x.copy_(new)
        own = DetectControls.of(IMAGE_HWS, params, device=DEVICE)
        for field in fields(own):
            getattr(controls, field.name).copy_(getattr(own, field.name))
        graph.replay()
        direct = run(head, flipped, IMAGE_HWS, params)
        assert direct.counts.all()
        for field in fields(direct):
            replayed = getattr(captured, field.name).cpu()
            torch.testing.assert_close(replayed, getattr(direct, field.name), rtol=1e-5, atol=1e-4)


def test_the_module_is_left_as_it_was(network: MaskRCNN) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    CompiledDetectorHead(network, dtype=torch.float16, device=DEVICE)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_shapes_that_do_not_fit(head: CompiledDetectorHead) -> None:
    plan = head.plan(2, MAP_HWS, capacity=5)
    controls = DetectControls.of(IMAGE_HWS[:1], PARAMS[:1], device=DEVICE)
    with pytest.raises(ValueError, match="planned for maps of"):
        head(make_maps(1), controls, plan)
    with pytest.raises(ValueError, match="capacity is 100, but at most 80 pairs"):
        head.plan(1, MAP_HWS)
