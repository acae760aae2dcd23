"""Tables and plots from small result files with invented figures."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import plot_performance
from benchmarks.plot_performance import (
    PAGE,
    Figures,
    Key,
    cases_table,
    draw,
    peers_table,
    points,
    read_reports,
    rows_of,
)
from benchmarks.report import Row


def figures(case: str, how: str, throughput: float, latency: float) -> list[Row]:
    prefix = f"{how}: " if how else ""
    return [
        Row(case, f"{prefix}throughput", "images/s", throughput),
        Row(case, f"{prefix}latency", "ms", latency),
    ]


OURS = [
    Row("device", "copy, read + written", "GB/s", 3000.0),
    Row("classify-tiny-224-warm-up", "warm-up", "s", 12.3),
    *figures("classify-tiny-224-b128", "", 12_000, 10.67),
    Row("classify-tiny-224-b128", "throughput / roofline", "ratio", 0.526),
    *figures("classify-tiny-224-b1", "", 2_000, 0.5),
    *figures("classify-tiny-112-b1", "", 2_500, 0.4),
    *figures("classify-tiny-384-b1", "", 1_000, 1.0),
    *figures("classify-tiny-224-b1-uint8-to-host", "", 1_500, 0.66),
    *figures("segment-tiny-512x512-b1", "", 300, 3.3),
]
PEERS = [
    *figures("classify-tiny-224-b128", "torch.compile", 6_000, 21.0),
    *figures("caformer_s18-224-b128", "eager", 99_999, 0.01),
    *figures("caformer_s18-224-b128", "torch.compile", 8_000, 16.0),
    *figures("caformer_s18-224-b1", "torch.compile", 500, 2.0),
    *figures("caformer_s18-224-b1", "torch.compile + graph", 1_000, 1.0),
]


def write(path: Path, rows: list[Row], **fields: Any) -> Path:
    report = {
        "device": "Example GPU",
        "date": "2026-01-02T00:00:00+00:00",
        "commit": "abc",
        "versions": {"torch": "2.11.0"},
        "rows": [
            {"case": r.case, "metric": r.metric, "unit": r.unit, "value": r.value} for r in rows
        ],
    }
    path.write_text(json.dumps({**report, **fields}))
    return path


MARKERS = ("measured on", "peers table", "plots", "cases table")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "docs" / "performance.md"
    path.parent.mkdir()
    path.write_text("\n".join(f"<!-- {name} -->\n<!-- end of {name} -->" for name in MARKERS))
    return path


@pytest.fixture
def results(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / "gpu.json", OURS), write(tmp_path / "rivals.json", PEERS)]


def test_points_take_the_faster_compiled_way() -> None:
    found = points(OURS + PEERS)
    assert found[Key("classify-tiny", "smserve", 224, 128)] == Figures(12_000, 10.67)
    assert found[Key("classify-tiny", "torch.compile", 224, 128)] == Figures(6_000, 21.0)
    assert found[Key("caformer_s18", "torch.compile", 224, 1)] == Figures(1_000, 1.0)
    assert len(found) == 7  # no segmentation, no whole pipeline, nothing eager


def test_peers_table() -> None:
    lines = peers_table(points(OURS + PEERS)).splitlines()[2:]
    assert lines == [
        "| Spatial-Mamba tiny | smserve | 12,000 | 1.00 x | 0.50 | 1.00 x |",
        "| Spatial-Mamba tiny | torch.compile | 6,000 | 2.00 x |  |  |",
        "| caformer_s18 | torch.compile | 8,000 | 1.50 x | 1.00 | 0.50 x |",
    ]


def test_cases_table() -> None:
    lines = cases_table(OURS).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| `classify-tiny-224-b128` | 12,000 | 10.67 |  |  |  |  | 53% |  |"
    assert len(lines) == 2 + 6


def test_a_later_file_corrects_an_earlier_one(tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", figures("classify-tiny-224-b1", "", 1, 1000))
    new = write(tmp_path / "new.json", figures("classify-tiny-224-b1", "", 2, 500))
    assert rows_of(read_reports([old, new])) == figures("classify-tiny-224-b1", "", 2, 500)


def test_devices_are_not_mixed(tmp_path: Path, results: list[Path]) -> None:
    other = write(tmp_path / "other.json", PEERS, device="Another GPU")
    with pytest.raises(ValueError, match=r"one device, got \['Another GPU', 'Example GPU'\]"):
        read_reports([*results, other])


def test_our_page_has_all_markers() -> None:
    text = PAGE.read_text()
    for name in MARKERS:
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- end of {name} -->") == 1


def test_the_page_is_filled(
    monkeypatch: pytest.MonkeyPatch, page: Path, results: list[Path]
) -> None:
    images = page.parent / "images"
    command = ["plot_performance", "--results", *map(str, results), "--page", str(page)]
    command += ["--images", str(images)]
    monkeypatch.setattr(sys, "argv", command)
    plot_performance.main()
    text = page.read_text()
    assert "Example GPU; torch 2.11.0; 2026-01-02; commit `abc`." in text
    assert "copy, read + written 3,000 GB/s" in text
    assert "Start-up with all default batch sizes: tiny 12 s." in text
    assert "](images/throughput.webp)" in text
    for name in ("throughput.webp", "latency.webp"):
        with Image.open(images / name) as image:
            assert image.width >= 800
            assert len(image.convert("RGB").getcolors(2**24) or []) > 10


def test_tables_alone_need_no_plots(
    monkeypatch: pytest.MonkeyPatch, page: Path, results: list[Path]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ["plot_performance", "--table-only", "--results", *map(str, results)]
    monkeypatch.setattr(sys, "argv", [*command, "--page", str(page)])
    plot_performance.main()
    assert "| caformer_s18 |" in page.read_text()
    assert "webp" not in page.read_text()


def test_plots_without_matplotlib_name_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeError, match=r"pip install '.\[demo\]', or --table-only"):
        draw({}, tmp_path)
