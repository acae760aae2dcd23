"""The plan and the rows of our own benchmark, with a stand-in for the compiled model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import bench_gpu
from benchmarks.bench_cpu import make_spec
from benchmarks.bench_gpu import Bench, Case, Kind, all_cases, best_compiled, select
from benchmarks.compiled_model import random_picture
from benchmarks.deadline import Deadline
from benchmarks.report import GrowingReport, Row
from model.config import PUBLISHED_INPUTS, TaskName
from model.predictor import TASKS
from model.resizing import normalise
from model.results import Params

TINY_B1 = "classify-tiny-224-b1"


class StandIn:
    """Has the methods of the compiled model and remembers what was asked of it."""

    def __init__(self, task: TaskName) -> None:
        self.task = task
        self.spec = make_spec(task, "tiny")
        self.calls: list[Any] = []

    def forward_resident(self, images_rgbx: Tensor) -> Tensor:
        self.calls.append(("resident", tuple(images_rgbx.shape), images_rgbx.dtype))
        return images_rgbx

    def forward_ungraphed(self, images_rgbx: Tensor) -> Tensor:
        return images_rgbx

    def prepare(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.calls.append(("prepare", rgb.shape))
        return rgb

    def infer(self, batch: Sequence[Any], params: Sequence[Params]) -> list[Any]:
        self.calls.append(("infer", len(batch), len(params), params[0]))
        return list(batch)

    def warm_up(self, batch_sizes: Sequence[int], shapes: Sequence[tuple[int, int]]) -> None:
        self.calls.append(("warm-up", tuple(batch_sizes), tuple(shapes)))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """Every stand-in in the order in which the benchmark built them."""
    models: list[StandIn] = []

    def build(task: TaskName, variant: str, hw: tuple[int, int], device: str) -> StandIn:
        if variant == "base":
            raise RuntimeError("no kernel image")
        models.append(StandIn(task))
        return models[-1]

    monkeypatch.setattr(bench_gpu, "build_compiled", build)
    return models


def run(
    names: Sequence[str], tmp_path: Path, against: Sequence[Row] = (), limit_s: float = 60
) -> GrowingReport:
    report = GrowingReport(tmp_path / "gpu.json", "gpu")
    bench = Bench(report, device="cpu", budget_s=0.01, against=against)
    bench.run(select([], [], names), Deadline(limit_s))
    return report


def metrics(report: GrowingReport, case: str) -> list[str]:
    return [row.metric for row in report.rows if row.case == case]


def test_names_of_all_cases() -> None:
    names = [case.name for case in all_cases()]
    assert len(set(names)) == len(names)
    wanted = {
        f"classify-{variant}-224-b{batch}"
        for variant in ("tiny", "small", "base")
        for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)
    }
    wanted |= {f"classify-{variant}-224-warm-up" for variant in ("tiny", "small", "base")}
    wanted |= {f"classify-tiny-{size}-b1" for size in (112, 384, 512)}
    wanted |= {f"classify-tiny-224-b1-{kind}" for kind in ("uint8-to-host", "resident-to-host")}
    wanted |= {"segment-tiny-512x512-b1", "segment-tiny-512x512-b16"}
    wanted |= {"detect-tiny-800x1344-b1", "detect-tiny-800x1344-b4"}
    assert set(names) == wanted


def test_cases_are_chosen_by_task_and_variant_or_by_name() -> None:
    names = [case.name for case in select(["classify"], ["small"], [])]
    assert names[:2] == ["classify-small-224-warm-up", "classify-small-224-b128"]
    assert len(names) == 10
    assert [case.name for case in select(["detect"], [], [TINY_B1])] == [TINY_B1]
    with pytest.raises(ValueError, match="unknown cases \\['nonsense'\\], known: classify-tiny"):
        select([], [], ["nonsense"])
    with pytest.raises(ValueError, match="no case"):
        select(["detect"], ["base"], [])


def test_rows_of_a_case_with_its_ratio(built: list[StandIn], tmp_path: Path) -> None:
    against = [
        Row(TINY_B1, "eager: throughput", "images/s", 9.0),
        Row(TINY_B1, "torch.compile: throughput", "images/s", 2.0),
        Row(TINY_B1, "torch.compile + graph: throughput", "images/s", 4.0),
    ]
    report = run([TINY_B1], tmp_path, against)
    expected = ["throughput", "latency", "latency p10", "latency p90"]
    assert metrics(report, TINY_B1) == [*expected, "throughput / torch.compile"]
    assert report.rows[-1].value == pytest.approx(report.rows[0].value / 4)
    assert built[0].calls[0] == ("resident", (1, 224, 224, 4), torch.uint8)
    assert best_compiled(against, "another case") is None


@pytest.mark.usefixtures("built")
def test_a_ceiling_belongs_to_its_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = Bench(GrowingReport(tmp_path / "gpu.json", "gpu"), device="cuda:0", budget_s=0.01)
    large = Case(TaskName.CLASSIFY, "tiny", (224, 224), 128)
    small = Case(TaskName.CLASSIFY, "tiny", (224, 224), 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert bench._ceiling(large) == pytest.approx(22_814, abs=1)
    assert bench._ceiling(small) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert bench._ceiling(large) is None


def test_whole_pipelines_and_warm_up(built: list[StandIn], tmp_path: Path) -> None:
    to_host, warm_up = f"{TINY_B1}-uint8-to-host", "classify-tiny-224-warm-up"
    detect = "detect-tiny-800x1344-b4"
    report = run([warm_up, to_host, detect], tmp_path)
    assert metrics(report, warm_up) == ["warm-up"]
    assert metrics(report, to_host) == ["throughput", "latency", "latency p99"]
    assert metrics(report, detect)[3:6] == [
        "latency p90",
        "latency p99",
        "on the device: throughput",
    ]
    warmed, classifier, detector = built
    assert warmed.calls == [("warm-up", bench_gpu.DEFAULT_BUCKETS, ((224, 224),))]
    assert classifier.calls[:2] == [
        ("prepare", (427, 640, 3)),
        ("infer", 1, 1, bench_gpu.PARAMS[TaskName.CLASSIFY]),
    ]
    assert detector.calls[:2] == [
        ("prepare", (800, 1333, 3)),
        ("infer", 4, 4, bench_gpu.PARAMS[TaskName.DETECT]),
    ]


def test_one_predictor_serves_neighbouring_cases(built: list[StandIn], tmp_path: Path) -> None:
    report = run(["classify-base-224-b1", TINY_B1, "classify-tiny-224-b2"], tmp_path)
    assert len(built) == 1
    assert report.failures == {"classify-base-224-b1": "RuntimeError: no kernel image"}
    assert {row.case for row in report.rows} == {TINY_B1, "classify-tiny-224-b2"}


@pytest.mark.usefixtures("built")
def test_a_passed_deadline_leaves_cases_out(tmp_path: Path) -> None:
    report = run([TINY_B1], tmp_path, limit_s=0)
    assert report.rows == []
    assert report.failures == {TINY_B1: "not measured: the time limit was reached"}


@pytest.mark.parametrize("task", list(TaskName))
def test_pictures_become_inputs_of_the_named_size(task: TaskName) -> None:
    hw = {"classify": (224, 224), "segment": (512, 512), "detect": (800, 1344)}[task]
    config = PUBLISHED_INPUTS[task]
    pixels = normalise(TASKS[task].resize(random_picture(task, hw), config), config)
    assert tuple(pixels.shape[1:]) == hw


def test_kinds_end_the_name() -> None:
    case = Case(TaskName.CLASSIFY, "tiny", (224, 224), 1, Kind.TO_HOST)
    assert case.name == f"{TINY_B1}-uint8-to-host"
