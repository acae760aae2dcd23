"""The calculators against counting, simulating and measuring; the page against them."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.report import ROOT
from benchmarks.scaling_table import (
    ASSUMED,
    BARE,
    PAGE,
    PICTURE_BYTES,
    blocks,
    rates,
    waiting_table,
    weight_bytes,
)
from benchmarks.series import count_series
from model.checkpoint import read_spec
from model.config import TaskName
from service.settings import Settings
from tests.service.running import running_service


@pytest.mark.parametrize("wanted", [1, 999, 10_000, 123_456])
@pytest.mark.parametrize("per_gpu", [243.0, 14_637.0])
def test_so_many_gpus_are_enough_and_one_less_is_not(wanted: int, per_gpu: float) -> None:
    number = scaling.gpus_for(wanted, per_gpu, 0.7)
    assert number * per_gpu * 0.7 >= wanted > (number - 1) * per_gpu * 0.7


@pytest.mark.parametrize("load", [0.5, 0.7, 0.9])
def test_the_mean_wait_is_that_of_a_simulated_queue(load: float) -> None:
    chance, arrival, free, waited = np.random.default_rng(7), 0.0, 0.0, 0.0
    requests = 200_000
    for _ in range(requests):
        arrival += chance.exponential(1 / load)
        begin = max(arrival, free)
        waited += begin - arrival
        free = begin + 1.0
    assert waited / requests == pytest.approx(scaling.mean_wait(load), rel=0.1)


def test_load_that_begins_at_this_share_fills_what_there_is_when_help_comes() -> None:
    reaction_s, doubling_s = 73, 300
    load = scaling.share_before_ramp(reaction_s, doubling_s)
    for _ in range(reaction_s):
        assert load < 1
        load *= 2 ** (1 / doubling_s)
    assert load == pytest.approx(1)
    # as long as a doubling: half
    assert scaling.share_before_ramp(60, 60) == pytest.approx(0.5)


def test_pulling_is_limited_by_the_slower_line() -> None:
    def seconds(nodes: int) -> float:
        return scaling.pull_s(1e9, nodes, registry_gbit_per_s=40, node_gbit_per_s=8)

    # one GB is 8 Gbit: a second on a node's own line, for up to five nodes on the registry's
    assert seconds(1) == seconds(5) == pytest.approx(1)
    assert seconds(50) == pytest.approx(10)


def test_gpus_that_are_away_are_those_of_a_simulated_month() -> None:
    gpus, restart_s, days = 1000, 600.0, 30.0
    chance, away_s, period_s = np.random.default_rng(3), 0.0, 300 * scaling.DAY_S
    for _ in range(gpus):
        now = 0.0
        while (now := now + chance.exponential(days * scaling.DAY_S)) < period_s:
            away_s += restart_s
    expected = scaling.mean_away(gpus, restart_s, days)
    assert away_s / period_s == pytest.approx(expected, rel=0.05)


def test_a_gpu_hour_is_paid_by_the_images_of_an_hour() -> None:
    images = 14_637 * 0.7 * 3600
    assert scaling.cost_per_million(2.0, 14_637, 0.7) * images / 1e6 == pytest.approx(2.0)
    assert scaling.gbit_per_s(20_000, 50_000) == pytest.approx(8.0)
    assert scaling.cores_for(1000, 250) == pytest.approx(4)


def report(folder: Path, name: str, date: str, rows: list[tuple[str, str, float]]) -> Path:
    path = folder / name
    listed = [{"case": c, "metric": m, "unit": "", "value": v} for c, m, v in rows]
    path.write_text(json.dumps({"date": date, "rows": listed}), encoding="utf-8")
    return path


def test_a_rate_over_http_replaces_that_of_the_bare_engine(tmp_path: Path) -> None:
    label = "classify-tiny-500x375"
    late = report(
        tmp_path,
        "a.json",
        "2026-12-02",
        [
            (label, "capacity", 2000.0),
            (f"litserve-{label}", "capacity", 9000.0),
            (f"{label}-c64", "throughput", 1500.0),
            (f"{label}-c64", "cpu of smserve-front[0]", 9.0),
            (f"{label}-c128", "throughput", 2000.0),
            (f"{label}-c128", "cpu of smserve-front[0]", 4.0),
            (f"{label}-c128", "cpu of smserve-engine[0]", 1.5),
            (f"{label}-open-50%", "latency p50", 3.0),
            (f"{label}-open-50%", "latency p99", 8.0),
        ],
    )
    early = report(tmp_path, "b.json", "2026-12-01", [(label, "capacity", 1000.0)])
    found = {one.model: one for one in rates([late, early], BARE)}
    tiny, base = found["classify-tiny"], found["classify-base"]
    assert (tiny.images_per_s, tiny.over, tiny.front_ms) == (2000.0, "HTTP", 5.5)
    assert base.over == "bare engine"
    assert len(found) == 5
    assert f"| `{label}-open-50%` | 3.0 | 8.0 |" in waiting_table([late])
    assert "over HTTP, measured" not in waiting_table([early])


def test_pictures_are_those_of_the_load_tests() -> None:
    from loadtests import workloads

    assert {task: size for task, (_, _, size) in workloads.PICTURES.items()} == PICTURE_BYTES


@pytest.mark.parametrize("task", TaskName)
def test_sizes_are_those_of_files(task: TaskName) -> None:
    path = ROOT / f"demo/weights/sticker-{task}.safetensors"
    # shipped in half precision; names, shapes and class names come on top
    assert 0 < path.stat().st_size - weight_bytes(read_spec(path)) / 2 < 100_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_series_are_those_of_a_running_service() -> None:
    async with running_service(Settings(backend="stub")) as running:
        text = (await running.client.get("/metrics")).text
    shown = sum(not line.startswith("#") for line in text.splitlines())
    # a machine without a GPU shows none of its five series
    assert count_series(models=3, fronts=0) == shown + 5


def test_front_ends_add_only_their_own_processes() -> None:
    one, two = (count_series(models=3, fronts=number) for number in (1, 2))
    six = count_series(models=3, fronts=6)
    assert six - two == 4 * (two - one) > 0
    assert two - one < 10


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, text in blocks().items():
        assert f"<!-- {name} -->\n{text}\n<!-- end of {name} -->" in page, "run `make docs`"


def test_intervals_are_those_of_the_manifests() -> None:
    folder = ROOT / "deploy/k8s/components"
    scaled = (folder / "keda/scaled-object.yaml").read_text(encoding="utf-8")
    monitor = (folder / "pod-monitor/pod-monitor.yaml").read_text(encoding="utf-8")
    assert f"pollingInterval: {ASSUMED.poll_s:g}\n" in scaled
    assert f"interval: {ASSUMED.scrape_s:g}s\n" in monitor
