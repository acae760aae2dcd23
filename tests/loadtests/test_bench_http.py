"""The HTTP benchmark's parts that need no long run."""

from pathlib import Path

import pytest

from benchmarks.deadline import Deadline
from benchmarks.plot_stages import level_label, panels_of
from benchmarks.report import GrowingReport, Row, read_rows
from loadtests import bare_process
from loadtests.bench_http import FULL, HttpBench
from loadtests.generator.plan import LoadPlan
from loadtests.generator.recorder import KeptAnswer, LoadResult
from loadtests.http_levels import NoAnswerError, measure_level, overhead_rows, stage_rows
from loadtests.peers.start import peer_payloads, peer_process
from loadtests.scrape import Scrape
from loadtests.workloads import demo_size, published_size
from model.checkpoint import read_spec
from model.config import TaskName


def histogram(total: float, count: float, **labels: str) -> Scrape:
    name = "smserve_stage_duration_seconds"
    samples = [(f"{name}_sum", labels, total), (f"{name}_count", labels, count)]
    whole = "smserve_request_duration_seconds"
    task = {"task": labels["task"], "model": "m"}
    samples += [(f"{whole}_sum", task, 3 * total), (f"{whole}_count", task, count)]
    return Scrape(tuple(samples))


def test_stages_are_means_of_what_came_between_and_the_rest_is_left() -> None:
    before = histogram(1.0, 10, stage="infer", task="classify")
    after = histogram(3.0, 20, stage="infer", task="classify")
    rows = {row.metric: row.value for row in stage_rows("x", before, after, TaskName.CLASSIFY)}
    assert rows["stage infer"] == pytest.approx(200)
    assert rows["stage rest"] == pytest.approx(400)
    assert stage_rows("x", before, before, TaskName.CLASSIFY) == []


def test_overhead_is_the_total_without_the_computation() -> None:
    timing = "read;dur=1.00, infer;dur=5.00, total;dur=9.00"
    answers = [KeptAnswer(0, 200, 0.012, timing, b""), KeptAnswer(0, 503, 0.1, "", b"")]
    rows = {row.metric: row.value for row in overhead_rows("x", answers)}
    assert rows["server overhead p50"] == pytest.approx(4)
    assert rows["client overhead p50"] == pytest.approx(7)


def test_the_plot_reads_levels_and_stages() -> None:
    rows = [
        Row("classify-tiny-500x375-c64", "stage infer", "ms", 3.0),
        Row("classify-tiny-500x375-open-50%", "stage rest", "ms", 1.0),
        Row("classify-tiny-500x375-c64", "throughput", "images/s", 9.0),
        Row("litserve-classify-tiny-500x375", "stage infer", "ms", 3.0),
    ]
    assert panels_of(rows) == {
        "classify-tiny-500x375": {"c64": {"infer": 3.0}, "open-50%": {"rest": 1.0}}
    }
    shuffled = [
        Row(f"x-{one}", "stage infer", "ms", 1) for one in ("c64", "open-50%", "c512", "c1")
    ]
    assert list(panels_of(shuffled)["x"]) == ["c1", "c64", "c512", "open-50%"]
    assert level_label("c1") == "1 client"
    assert level_label("open-50%") == "50% of capacity"


def bench_of(path: Path, limit_s: float) -> HttpBench:
    return HttpBench(
        GrowingReport(path, "http"), FULL, Deadline(limit_s), frontends="auto", engines="auto"
    )


def test_the_capacity_is_the_best_of_the_loops_that_time_was_left_for(tmp_path: Path) -> None:
    seen = []

    def measure(case: str, plan: LoadPlan) -> LoadResult:
        seen.append((case, plan.connections))
        return LoadResult(images=plan.connections, seconds=1.0)

    assert bench_of(tmp_path / "all.json", 60)._closed_loops("x", measure) == 512
    assert seen[:2] == [("x-c64", 64), ("x-c128", 128)]
    seen.clear()
    assert bench_of(tmp_path / "late.json", 0)._closed_loops("x", measure) == 64
    assert [row.metric for row in read_rows(tmp_path / "late.json")] == ["capacity"]
    assert len(seen) == 1


def test_an_early_end_keeps_what_is_known(tmp_path: Path) -> None:
    out = tmp_path / "http.json"
    figures = {}

    def measure() -> None:
        figures["capacity"] = 3.0
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        bench_of(out, 60)._attempt("ours", measure)
    assert "ended early" in out.read_text()
    assert figures


def test_a_model_of_published_size_can_be_served(tmp_path: Path) -> None:
    workload = published_size(TaskName.CLASSIFY, "tiny", tmp_path, different=2)
    assert read_spec(workload.model_file).num_classes == 1000
    assert len(workload.payloads(files=2)) == 2


@pytest.mark.slow
def test_the_bare_engine_computes_what_is_served(tmp_path: Path) -> None:
    workload = demo_size(TaskName.CLASSIFY, folder=tmp_path, different=2)
    assert bare_process.measure(workload, batch=2, budget_s=0.2)["images_per_s"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["plain", "litserve"])
def test_a_peer_serves_the_same_model(peer: str, tmp_path: Path) -> None:
    if peer == "litserve":
        pytest.importorskip("litserve")
    workload = demo_size(TaskName.CLASSIFY, folder=tmp_path, different=2)
    plan = LoadPlan(urls=("http://127.0.0.1",), duration_s=1.0, connections=2)
    with peer_process(peer, workload, 2) as server:
        result, rows = measure_level(
            "x", server.url, peer_payloads(peer, workload), plan, pid=server.pid
        )
        wrong = workload.payloads("/nowhere")
        with pytest.raises(NoAnswerError):
            measure_level("x", server.url, wrong, plan, pid=server.pid)
    assert set(result.statuses) == {200}
    assert any(row.metric.startswith("cpu of") for row in rows)
