"""The compiled predictor's answers are those of the eager one, whatever is in the batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoint import save_model
from model.compiled import detect_pipeline
from model.compiled.errors import GraphCaptureError
from model.compiled.graphs import make_recorder
from model.compiled.pipelines import Choice
from model.compiled.predictor import CompiledPredictor, CompileOptions
from model.config import InputConfig, TaskName
from model.mask_rcnn import RawDetections
from model.results import ClassifyParams, Detections, DetectParams, SegmentParams
from tests.model.compiled_cases import (
    CAPACITIES,
    DETECT_PARAMS,
    DEVICE,
    INPUTS,
    answers,
    assert_same,
    make_model,
    make_params,
    make_pictures,
    make_predictor,
    truth,
    use_shallow_demo,
    use_small_detector,
    use_stand_ins,
)

TASKS = list(TaskName)
CLASSIFY, DETECT, SEGMENT = TaskName.CLASSIFY, TaskName.DETECT, TaskName.SEGMENT


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_detector(monkeypatch)
    use_stand_ins(monkeypatch)


# detection has the kernels of the others and more of its own; classification goes through all of
# its kernels in the service's test as well
@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        pytest.param(CLASSIFY, marks=pytest.mark.nightly),
        DETECT,
        pytest.param(SEGMENT, marks=pytest.mark.nightly),
    ],
)
def test_with_all_kernels(task: TaskName, monkeypatch: pytest.MonkeyPatch) -> None:
    use_shallow_demo(monkeypatch)
    use_small_detector(monkeypatch, proposals=3)
    monkeypatch.setitem(INPUTS, DETECT, InputConfig(short=32, long=64, pad_multiple=32))
    pictures = make_pictures(task, 1)
    params = (
        [replace(DETECT_PARAMS[0], max_proposals=3)] if task is DETECT else make_params(task, 1)
    )
    (got,) = answers(make_predictor(task), pictures, params)
    (expected,) = truth(task, pictures, params)
    assert_same(got, expected)
    if isinstance(expected, Detections):
        assert len(expected.scores) > 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("preprocessing", ["fast", "exact"])
@pytest.mark.parametrize("task", TASKS)
def test_a_mixed_batch_in_a_bucket_full_of_garbage(task: TaskName, preprocessing: str) -> None:
    predictor = make_predictor(task, preprocessing=preprocessing)
    pictures, params = make_pictures(task, 3), make_params(task, 3)
    expected = truth(task, pictures, params)
    assert len({str(own) for own in expected}) == 3, "the answers should differ"
    predictor.warm_up([4], [predictor.prepare(pictures[0]).shape], params[:1])
    (key,) = predictor.graph_keys
    stale = predictor._pipeline.pictures(predictor._graphs.inputs(key))
    assert stale.shape[0] == 4
    with torch.inference_mode():
        stale.fill_(213 if preprocessing == "fast" else torch.nan)
    for got, own in zip(answers(predictor, pictures, params), expected, strict=True):
        assert_same(got, own)
    assert predictor.graph_count == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("task", TASKS)
def test_more_images_than_the_largest_bucket(task: TaskName) -> None:
    predictor = make_predictor(task, buckets=(2, 1))
    pictures, params = make_pictures(task), make_params(task)
    got = answers(predictor, pictures, params)
    assert len(got) == 5
    for own, expected in zip(got, truth(task, pictures, params), strict=True):
        assert_same(own, expected)
    assert {key.batch for key in predictor.graph_keys} == {1, 2}


@pytest.mark.usefixtures("small")
def test_a_batch_after_a_larger_one() -> None:
    predictor = make_predictor(DETECT, buckets=(4,))
    pictures, params = make_pictures(DETECT), make_params(DETECT)
    answers(predictor, pictures[:4], params[:4])
    (got,) = answers(predictor, pictures[4:], params[4:])
    (expected,) = truth(DETECT, pictures[4:], params[4:])
    assert_same(got, expected)


@pytest.mark.usefixtures("small")
def test_masks_only_for_those_who_want_them() -> None:
    predictor = make_predictor(DETECT)
    pictures, params = make_pictures(DETECT, 3), make_params(DETECT, 3)
    got = answers(predictor, pictures, params)
    assert [own.masks is None for own in got if isinstance(own, Detections)] == [0, 0, 1]
    answers(predictor, pictures[2:], params[2:])
    choices = [key.choice for key in predictor.graph_keys]
    assert choices == [Choice(CAPACITIES[0], True), Choice(CAPACITIES[0], False)]


@pytest.mark.usefixtures("small")
def test_one_who_wants_more_objects_gets_a_larger_graph() -> None:
    predictor = make_predictor(DETECT)
    pictures = make_pictures(DETECT, 2)
    generous = DetectParams(score_threshold=0.01, nms_iou=0.9, max_detections=16, max_proposals=20)
    params = [DETECT_PARAMS[0], generous]
    got = answers(predictor, pictures, params)
    expected = truth(DETECT, pictures, params)
    assert isinstance(expected[1], Detections)
    assert len(expected[1].scores) > CAPACITIES[0]
    for own, other in zip(got, expected, strict=True):
        assert_same(own, other)
    assert [key.choice.capacity for key in predictor.graph_keys] == [CAPACITIES[1]]
    assert predictor.fallback_count == 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("with_masks", [True, False])
def test_the_module_answers_what_the_graph_cannot(with_masks: bool) -> None:
    predictor = make_predictor(DETECT)
    pictures = make_pictures(DETECT, 3)
    greedy = DetectParams(
        score_threshold=0.001,
        nms_iou=0.95,
        max_detections=1000,
        max_proposals=5000,
        with_masks=with_masks,
    )
    params = [DETECT_PARAMS[0], greedy, DETECT_PARAMS[1]]
    batch = [predictor.prepare(picture) for picture in pictures]
    raws = predictor.infer(batch, params)
    assert [isinstance(raw, RawDetections) for raw in raws] == [False, True, False]
    assert predictor.fallback_count == 1
    # proposals beyond the compiled limit do not count
    expected = truth(DETECT, pictures, [params[0], replace(greedy, max_proposals=20), params[2]])
    assert isinstance(expected[1], Detections)
    assert len(expected[1].scores) > CAPACITIES[1]
    for raw, own, other in zip(raws, batch, expected, strict=True):
        assert_same(predictor.finish(raw, own), other)


@pytest.mark.usefixtures("small")
def test_more_edges_than_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_pipeline, "_EDGES_PER_IMAGE", 1)
    predictor = make_predictor(DETECT)
    pictures, params = make_pictures(DETECT, 2), make_params(DETECT, 2)
    expected = truth(DETECT, pictures, params)
    calls = []
    find_runs: Callable[..., Any] = detect_pipeline.find_runs

    def counting(*args: Any, capacity: int, **kwargs: Any) -> Any:
        calls.append(capacity)
        return find_runs(*args, capacity=capacity, **kwargs)

    monkeypatch.setattr(detect_pipeline, "find_runs", counting)
    for _ in range(2):
        for got, own in zip(answers(predictor, pictures, params), expected, strict=True):
            assert_same(got, own)
    assert calls[0] == 2
    assert calls[1] > 2
    assert len(calls) == 3, "the second batch should know"
    assert calls[2] >= calls[1]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("task", TASKS)
def test_resident_forms(task: TaskName) -> None:
    predictor = make_predictor(task)
    images = torch.randint(0, 256, (3, 64, 32, 4), dtype=torch.uint8, device=DEVICE)
    images[..., 3] = 255
    resident = predictor.forward_resident(images)
    ungraphed = predictor.forward_ungraphed(images)
    if task is DETECT:
        assert resident.counts.all()
        assert resident.scores.shape == (3, CAPACITIES[1])
        assert resident.mask_logits is not None
        resident, ungraphed = resident.boxes, ungraphed.boxes
    torch.testing.assert_close(resident, ungraphed, rtol=1e-4, atol=1e-4)
    assert [key.batch for key in predictor.graph_keys] == [3]
    if task is CLASSIFY:
        alone = predictor.forward_ungraphed(images[1:2])
        torch.testing.assert_close(resident[1:2], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("small")
def test_warm_up() -> None:
    predictor = make_predictor(SEGMENT, buckets=(1, 3))
    report = predictor.warm_up()
    # lying and upright, two buckets
    assert (report.graphs, report.failures) == (4, ())
    assert report.seconds > 0
    assert predictor.graph_count == 4
    pictures = [np.zeros((32, 43, 3), dtype=np.uint8)] * 2
    answers(predictor, pictures, [SegmentParams()] * 2)
    assert predictor.warm_up([2, 9], [(32, 43), (32, 50)]).graphs == 5


@pytest.mark.usefixtures("small")
def test_warm_up_tells_what_did_not_fit() -> None:
    predictor = make_predictor(CLASSIFY, buckets=(1, 2, 4))
    record = make_recorder(torch.device("cpu"))

    def tight(function: Callable[[], Any]) -> Any:
        if len(function()) > 2:
            raise torch.OutOfMemoryError("no room")
        return record(function)

    predictor._graphs._recorder = tight
    report = predictor.warm_up()
    assert report.graphs == 2
    ((size, reason),) = report.failures
    assert size == (4, 32, 32)
    assert "no room" in reason
    pictures, params = make_pictures(CLASSIFY, 3), make_params(CLASSIFY, 3)
    with pytest.raises(GraphCaptureError, match="no room"):
        answers(predictor, pictures, params)
    assert len(answers(predictor, pictures[:2], params[:2])) == 2


@pytest.mark.usefixtures("small")
def test_graphs_are_limited() -> None:
    predictor = make_predictor(CLASSIFY, buckets=(1, 2, 4), max_graphs=2)
    pictures, params = make_pictures(CLASSIFY, 4), make_params(CLASSIFY, 4)
    for count in (1, 2, 1, 4):
        answers(predictor, pictures[:count], params[:count])
    assert [key.batch for key in predictor.graph_keys] == [1, 4]


@pytest.mark.usefixtures("small")
def test_a_model_file(tmp_path: Path) -> None:
    network, spec = make_model(CLASSIFY)
    path = tmp_path / "model.safetensors"
    save_model(path, network.state_dict(), spec)
    options = CompileOptions(dtype=torch.float32)
    predictor = CompiledPredictor.load(path, device=DEVICE, options=options)
    assert (predictor.spec, predictor.dtype) == (spec, torch.float32)
    pictures, params = make_pictures(CLASSIFY, 1), make_params(CLASSIFY, 1)
    (got,) = answers(predictor, pictures, params)
    assert_same(got, truth(CLASSIFY, pictures, params)[0])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("preprocessing", ["fast", "exact"])
def test_prepared_pictures_know_their_sizes(preprocessing: str) -> None:
    predictor = make_predictor(DETECT, preprocessing=preprocessing)
    prepared = predictor.prepare(np.zeros((128, 170, 3), dtype=np.uint8))
    assert prepared.shape == (64, 96)
    assert prepared.resized_hw == (64, 85)
    assert prepared.original_hw == (128, 170)


@pytest.mark.usefixtures("small")
def test_refuses() -> None:
    predictor = make_predictor(DETECT)
    picture = predictor.prepare(np.zeros((64, 96, 3), dtype=np.uint8))
    upright = predictor.prepare(np.zeros((96, 64, 3), dtype=np.uint8))
    params = DetectParams()
    for batch, own in (([], []), ([picture, upright], [params] * 2), ([picture], [params] * 2)):
        with pytest.raises(ValueError, match="a batch needs one shape"):
            predictor.infer(batch, own)
    with pytest.raises(TypeError, match="detection needs DetectParams"):
        predictor.infer([picture], [ClassifyParams()])
    assert predictor.graph_count == 0
    with pytest.raises(ValueError, match="buckets must be positive"):
        make_predictor(CLASSIFY, buckets=())
    network, spec = make_model(SEGMENT)
    padded = replace(spec, input=InputConfig(short=32, pad_multiple=8))
    with pytest.raises(ValueError, match="segmentation does not pad"):
        CompiledPredictor(network, padded, device=DEVICE)


def test_sums_of_the_library_stay_in_float32() -> None:
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    torch.backends.cudnn.allow_tf32 = True
    make_predictor(TaskName.CLASSIFY)
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cudnn.allow_tf32
