"""Small models and pictures for the tests of the compiled predictor, and how answers compare."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernels.roi_align.reference import roi_align_ref
from model.backbone import Backbone
from model.checkpoint import build_network
from model.compiled import classifier, detect_pipeline, roi_stage, segmenter
from model.compiled.detector import CompiledDetectorHead
from model.compiled.predictor import CompiledPredictor, CompileOptions
from model.config import VARIANTS, InputConfig, ModelSpec, TaskName
from model.masks import rle_to_mask
from model.predictor import Predictor
from model.results import (
    Classification,
    ClassifyParams,
    Detections,
    DetectParams,
    Params,
    Result,
    Segmentation,
    SegmentParams,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CANDIDATES = 48
PROPOSALS = 20
CAPACITIES = (10, 16)
INPUTS = {
    TaskName.CLASSIFY: InputConfig(short=36, crop=32),
    TaskName.DETECT: InputConfig(short=64, long=96, pad_multiple=32),
    TaskName.SEGMENT: InputConfig(short=32, long=64),
}
# different originals, the same network input
SIZES = {
    TaskName.CLASSIFY: [(40, 50), (32, 90), (7, 5), (64, 64), (36, 36)],
    TaskName.DETECT: [(32, 45), (72, 104), (33, 44), (31, 46), (64, 96)],
    TaskName.SEGMENT: [(32, 40), (64, 80), (16, 20), (48, 60), (96, 120)],
}
DETECT_PARAMS = [
    DetectParams(score_threshold=0.2, nms_iou=0.4, max_detections=9, max_proposals=PROPOSALS),
    DetectParams(score_threshold=0.3, nms_iou=0.6, max_detections=4, max_proposals=13),
    DetectParams(score_threshold=0.15, max_proposals=9, max_detections=6, with_masks=False),
    DetectParams(score_threshold=0.9, max_proposals=PROPOSALS, max_detections=10),
    DetectParams(score_threshold=0.25, nms_iou=0.3, max_detections=10, max_proposals=PROPOSALS),
]


class EagerBackbone:
    """The module under the interface of the compiled one, which the interpreter runs very slowly.

    The kernels have tests of their own.
    """

    def __init__(
        self, backbone: Backbone, config: InputConfig, *, dtype: torch.dtype, device: Any
    ) -> None:
        self._backbone = backbone
        self._mean, self._std = torch.tensor(config.mean), torch.tensor(config.std)

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        x = pictures[..., :3].float()
        if pictures.dtype == torch.uint8:
            x = (x - self._mean) / self._std * (pictures[..., 3:] > 0)
        maps: list[Tensor] = self._backbone(x.permute(0, 3, 1, 2))
        return [own.contiguous() for own in maps]


def use_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the interpreter is too slow for; nothing of it on a GPU."""
    if DEVICE != "cpu":
        return
    users: tuple[ModuleType, ...] = (classifier, segmenter, detect_pipeline)
    for module in users:
        monkeypatch.setattr(module, "CompiledBackbone", EagerBackbone)
    monkeypatch.setattr(roi_stage, "roi_align_triton", roi_align_ref)


def use_shallow_demo(
    monkeypatch: pytest.MonkeyPatch, depths: tuple[int, int, int, int] = (1, 2, 1, 1)
) -> None:
    """The demo's widths with fewer blocks than nine; the interpreter takes seconds for each.

    One stage still has two of them, one after the other, unless `depths` say otherwise.
    """
    if DEVICE != "cpu":
        return
    demo = VARIANTS["demo"]
    shallow = replace(demo, backbone=replace(demo.backbone, depths=depths))
    monkeypatch.setattr("model.config.VARIANTS", {**VARIANTS, "demo": shallow})


def use_small_detector(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    """Few candidates and rows, in the compiled model and in the module."""
    limits = {"candidates": CANDIDATES, "proposals": PROPOSALS, **limits}
    head = partial(CompiledDetectorHead, **limits)
    monkeypatch.setattr(detect_pipeline, "CompiledDetectorHead", head)
    monkeypatch.setattr(detect_pipeline, "CAPACITIES", CAPACITIES)
    monkeypatch.setattr("model.rpn.CANDIDATES_PER_LEVEL", CANDIDATES)
    # the compiled head compares with the module's float32 on the CPU
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make_model(task: TaskName) -> tuple[nn.Module, ModelSpec]:
    """Demo size, random weights, answers far enough apart for rounding not to matter."""
    torch.manual_seed(10)
    spec = ModelSpec(
        name="random",
        task=task,
        variant="demo",
        class_names=tuple("abcdefg"),
        input=INPUTS[task],
    )
    network: Any = build_network(spec)
    factors = {
        TaskName.CLASSIFY: {"head": 30.0},
        TaskName.SEGMENT: {"head.classify": 30.0},
        TaskName.DETECT: {
            "rpn.objectness": 30.0,
            "rpn.deltas": 3.0,
            "box_head.fc1": 6.0,
            "box_head.fc2": 3.0,
            "box_head.classify": 12.0,
            "box_head.regress": 4.0,
            "mask_head.classify": 20.0,
        },
    }
    for name, factor in factors[task].items():
        network.get_submodule(name).weight.data.mul_(factor)
    return network, spec


def make_predictor(
    task: TaskName, *, buckets: tuple[int, ...] = (1, 4), **options: Any
) -> CompiledPredictor:
    network, spec = make_model(task)
    own = CompileOptions(dtype=torch.float32, batch_buckets=buckets, **options)
    return CompiledPredictor(network, spec, device=DEVICE, options=own)


def make_pictures(task: TaskName, count: int = 5) -> list[NDArray[np.uint8]]:
    """Large patches of colour: all of noise looks the same to a network of random weights."""
    rng = np.random.default_rng(4)
    patches = [rng.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(count)]
    return [
        np.asarray(cv2.resize(own, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
        for own, (height, width) in zip(patches, SIZES[task], strict=False)
    ]


def make_params(task: TaskName, count: int = 5) -> list[Params]:
    if task is TaskName.DETECT:
        return list(DETECT_PARAMS[:count])
    return [ClassifyParams() if task is TaskName.CLASSIFY else SegmentParams()] * count


def answers(
    predictor: CompiledPredictor | Predictor,
    pictures: Sequence[NDArray[np.uint8]],
    params: Sequence[Params],
) -> list[Result]:
    """All three steps for one batch."""
    model: Any = predictor
    batch = [model.prepare(picture) for picture in pictures]
    raws = model.infer(batch, params)
    return [model.finish(raw, own) for raw, own in zip(raws, batch, strict=True)]


def truth(
    task: TaskName, pictures: Sequence[NDArray[np.uint8]], params: Sequence[Params]
) -> list[Result]:
    """The module's answers in float32 on the CPU, each picture alone."""
    network, spec = make_model(task)
    predictor = Predictor(network, spec)
    return [
        answers(predictor, [picture], [own])[0]
        for picture, own in zip(pictures, params, strict=True)
    ]


def assert_same(got: Result, expected: Result) -> None:
    """Equal up to rounding."""
    assert type(got) is type(expected)
    if isinstance(got, Classification) and isinstance(expected, Classification):
        np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-4)
        assert got.probabilities.dtype == np.float32
    elif isinstance(got, Segmentation) and isinstance(expected, Segmentation):
        assert got.label_map.dtype == np.uint8
        assert got.label_map.shape == expected.label_map.shape
        assert np.mean(got.label_map != expected.label_map) < 2e-3
    elif isinstance(got, Detections) and isinstance(expected, Detections):
        _assert_same_objects(got, expected)


def _assert_same_objects(got: Detections, expected: Detections) -> None:
    assert got.class_ids.tolist() == expected.class_ids.tolist()
    assert [got.class_ids.dtype, got.boxes.dtype, got.scores.dtype] == [np.int64, *[np.float32] * 2]
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got.boxes, expected.boxes, rtol=1e-3, atol=1e-2)
    assert (got.masks is None) == (expected.masks is None)
    for own, other in zip(got.masks or (), expected.masks or (), strict=True):
        a, b = rle_to_mask(own), rle_to_mask(other)
        assert a.shape == b.shape
        assert np.mean(a != b) < 2e-3
