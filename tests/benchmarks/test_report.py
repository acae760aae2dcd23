"""Result files that grow, and pages with markers."""

import json
from pathlib import Path

import pytest

from benchmarks.report import GrowingReport, Row, read_rows, update_page


def test_a_growing_report_is_complete_after_every_step(tmp_path: Path) -> None:
    path = tmp_path / "results" / "out.json"
    report = GrowingReport(path, "example", layout="channels-last")
    report.add([Row("a", "latency", "ms", 1.0)])
    assert read_rows(path) == [Row("a", "latency", "ms", 1.0)]
    report.fail("b", "out of memory")
    report.fail("d", ValueError("x" * 1000))
    report.add([Row("c", "latency", "ms", 2.0)])
    written = json.loads(path.read_text())
    assert [row["case"] for row in written["rows"]] == ["a", "c"]
    assert written["failures"].keys() == {"b", "d"}
    assert written["failures"]["b"] == "out of memory"
    assert written["failures"]["d"].startswith("ValueError: xxx")
    assert len(written["failures"]["d"]) < 400
    assert (written["benchmark"], written["layout"]) == ("example", "channels-last")
    assert [file.name for file in path.parent.iterdir()] == ["out.json"]


def test_rows_of_another_device_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text(json.dumps({"device": "one", "rows": []}))
    assert read_rows(path, "one") == []
    with pytest.raises(ValueError, match="measured on 'one', to compare with 'two'"):
        read_rows(path, "two")


def test_a_page_keeps_what_stands_around_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n")
    update_page(page, "x", "new")
    update_page(page, "x", "newer")
    assert page.read_text() == "before\n<!-- x -->\nnewer\n<!-- end of x -->\nafter\n"


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "<!-- x -->",
        "<!-- end of x --> <!-- x -->",
        "<!-- x --><!-- end of x --><!-- x --><!-- end of x -->",
    ],
)
def test_a_page_without_its_markers_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="once each"):
        update_page(page, "x", "new")
    assert page.read_text() == text
