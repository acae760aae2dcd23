"""What only a GPU shows: graphs, half precision, and the published models in it."""

from typing import Any

import numpy as np
import pytest
import torch

from model.compiled.predictor import CompiledPredictor, CompileOptions
from model.config import TaskName
from model.results import Classification, Detections, DetectParams, Params, Result
from tests.model import golden_gpu
from tests.model.compiled_cases import (
    DETECT_PARAMS,
    answers,
    assert_same,
    make_model,
    make_params,
    make_pictures,
    make_predictor,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CASES = golden_gpu.case_names()
DETECTIONS = [name for name in CASES if name.startswith("detect_")]
GENEROUS = DetectParams(score_threshold=0.01, max_detections=20)


@pytest.mark.parametrize("task", list(TaskName))
def test_replays_equal_single_launches(task: TaskName) -> None:
    network, spec = make_model(task)
    predictor = CompiledPredictor(network, spec)
    images = torch.randint(0, 256, (3, 64, 96, 4), dtype=torch.uint8, device="cuda")
    images[..., 3] = 255
    for _ in range(2):
        images = images.flip(0).contiguous()
        expected = _tensors(predictor.forward_ungraphed(images))
        for got, own in zip(_tensors(predictor.forward_resident(images)), expected, strict=True):
            torch.testing.assert_close(got, own, rtol=1e-3, atol=1e-3)


def _tensors(answer: Any) -> list[torch.Tensor]:
    if isinstance(answer, torch.Tensor):
        return [answer.clone()]
    return [answer.boxes.clone(), answer.scores.clone(), answer.counts.clone()]


@pytest.mark.parametrize("task", list(TaskName))
def test_alone_and_in_a_batch(task: TaskName) -> None:
    predictor = make_predictor(task, buckets=(1, 8))
    pictures, params = make_pictures(task), make_params(task)
    together = answers(predictor, pictures, params)
    for picture, own, expected in zip(pictures, params, together, strict=True):
        (alone,) = answers(predictor, [picture], [own])
        assert_same(alone, expected)


def test_results_outlive_the_next_batches() -> None:
    predictor = make_predictor(TaskName.DETECT, buckets=(1, 8))
    pictures, params = make_pictures(TaskName.DETECT), make_params(TaskName.DETECT)
    batch = [predictor.prepare(picture) for picture in pictures]
    raws = predictor.infer(batch, params)
    first = [predictor.finish(raw, own) for raw, own in zip(raws, batch, strict=True)]
    for _ in range(3):
        predictor.infer(batch[::-1], params)
    later = [predictor.finish(raw, own) for raw, own in zip(raws, batch, strict=True)]
    for got, expected in zip(later, first, strict=True):
        assert_same(got, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_exact_and_fast_preprocessing_agree(dtype: torch.dtype) -> None:
    task = TaskName.CLASSIFY
    pictures, params = make_pictures(task), make_params(task)
    found: list[list[Result]] = []
    for preprocessing in ("fast", "exact"):
        network, spec = make_model(task)
        options = CompileOptions(dtype=dtype, preprocessing=preprocessing)
        predictor = CompiledPredictor(network, spec, options=options)
        found.append(answers(predictor, pictures, params))
    for fast, exact in zip(*found, strict=True):
        assert isinstance(fast, Classification)
        assert isinstance(exact, Classification)
        assert np.abs(fast.probabilities - exact.probabilities).max() < 0.05


def test_graphs_may_come_and_go() -> None:
    task = TaskName.DETECT
    predictor = make_predictor(task, buckets=(1, 2, 4), max_graphs=2)
    pictures, params = make_pictures(task), make_params(task)
    expected = [answers(predictor, [p], [o])[0] for p, o in zip(pictures, params, strict=True)]
    mixed: list[Params] = [*params[:3], GENEROUS]
    for count in (1, 2, 4, 1, 4):
        got = answers(predictor, pictures[:count], mixed[:count])
        for own, other in zip(got[:3], expected, strict=False):
            assert_same(own, other)
    assert predictor.graph_count == 2


def test_the_module_answers_what_the_graph_cannot() -> None:
    predictor = make_predictor(TaskName.DETECT)
    (picture,) = make_pictures(TaskName.DETECT, 1)
    greedy = DetectParams(score_threshold=0.0, nms_iou=0.95, max_detections=2000)
    (got,) = answers(predictor, [picture], [greedy])
    assert predictor.fallback_count == 1
    assert isinstance(got, Detections)
    assert len(got.scores) > 300
    (usual,) = answers(predictor, [picture], [DETECT_PARAMS[0]])
    assert isinstance(usual, Detections)
    assert predictor.fallback_count == 1


@pytest.fixture(scope="module")
def models() -> golden_gpu.GpuModels:
    return golden_gpu.GpuModels(torch.float16)


@pytest.mark.golden
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in CASES if name not in DETECTIONS])
def test_reproduces_the_published_models(name: str, models: golden_gpu.GpuModels) -> None:
    rows = golden_gpu.compare(name, models)
    assert rows
    assert golden_gpu.outside(rows) == []


@pytest.mark.golden
@pytest.mark.timeout(1200)
def test_finds_as_many_objects_as_pytorch(models: golden_gpu.GpuModels) -> None:
    """All cases together: each has too few objects to tell luck from an error."""
    rows = [row for name in DETECTIONS for row in golden_gpu.compare(name, models)]
    found = golden_gpu.mean_found(rows)
    assert found is not None
    assert found.ok, golden_gpu.describe(found)
