"""The harness for peers with a small network on the CPU."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import bench_rivals
from benchmarks.bench_rivals import Job, Options, build, plan, run
from benchmarks.deadline import Deadline
from benchmarks.report import GrowingReport, read_rows

CPU = Options(device="cpu", budget_s=0.01)


class Picky(nn.Module):
    """Refuses large batches, as a model that runs out of memory does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 2:
            raise RuntimeError("out of memory\nand a long trace")
        result: Tensor = self.conv(images).mean((2, 3))
        return result


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_small(name: str) -> tuple[nn.Module, torch.dtype]:
        if name == "absent":
            raise RuntimeError("no such model")
        return Picky().requires_grad_(False), torch.bfloat16

    monkeypatch.setattr(bench_rivals, "build", build_small)
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)


def test_the_most_important_jobs_come_first() -> None:
    jobs = plan(["a", "b"], [224], [1, 128])
    assert [job.case for job in jobs] == ["a-224-b128", "b-224-b128", "a-224-b1", "b-224-b1"]
    assert plan(bench_rivals.MODELS, [224], [1, 128])[0].case == "caformer_s18-224-b128"


@pytest.mark.usefixtures("stand_in")
def test_failures_are_reported_and_the_rest_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "rivals.json"
    report = GrowingReport(out, "rivals")
    jobs = [Job("small", 16, 4), Job("absent", 16, 1), Job("small", 16, 2)]
    run(jobs, CPU, report, Deadline(60))
    rows = read_rows(out)
    assert {row.case for row in rows} == {"small-16-b2"}
    assert [row.metric for row in rows] == [
        "eager: throughput",
        "eager: latency",
        "eager: latency p10",
        "eager: latency p90",
        "torch.compile: throughput",
        "torch.compile: latency",
        "torch.compile: latency p10",
        "torch.compile: latency p90",
        "torch.compile: first call",
    ]
    figures = {row.metric: row.value for row in rows}
    assert figures["eager: throughput"] == pytest.approx(2e3 / figures["eager: latency"])
    assert report.failures == {
        "small-16-b4, eager": "RuntimeError: out of memory and a long trace",
        "small-16-b4, torch.compile": "RuntimeError: out of memory and a long trace",
        "absent-16-b1": "RuntimeError: no such model",
    }


@pytest.mark.usefixtures("stand_in")
def test_a_passed_deadline_leaves_jobs_out(tmp_path: Path) -> None:
    report = GrowingReport(tmp_path / "rivals.json", "rivals")
    run([Job("small", 16, 1)], CPU, report, Deadline(0))
    assert report.rows == []
    assert report.failures == {"small-16-b1": "not measured: the time limit was reached"}


def test_our_reference_network_is_built_for_half_precision() -> None:
    network, dtype = build("classify-tiny")
    assert dtype is torch.float16
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with torch.inference_mode():
        logits = network.to(dtype)(torch.randn(1, 3, 32, 32, dtype=dtype))
    assert logits.shape == (1, 1000)
    assert logits.isfinite().all()


def test_a_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RuntimeError, match="caformer_s18 comes from timm: pip install timm"):
        build("caformer_s18")
