"""Options are understood, figures are added up, and limits are held against them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtests.limiting_stage import explain
from loadtests.locust_users.ledger import Counter, Ledger
from loadtests.locust_users.options import (
    Limits,
    add_arguments,
    limits,
    load_options,
    parse_mix,
    parse_p99,
    parse_think,
)
from loadtests.locust_users.report import add_to_html, report_lines, report_path
from loadtests.locust_users.summary import Summary, broken, summarise
from loadtests.scrape import Scrape

NO_LIMITS = Limits(None, None, None, {})


class Entry:
    """Of Locust's statistics."""

    def __init__(self, requests: int, failures: int = 0, ms: float = 10.0) -> None:
        self.num_requests, self.num_failures, self._ms = requests, failures, ms

    def get_response_time_percentile(self, share: float) -> float:
        return self._ms * share


def summary(ledger: Ledger | None = None, **requests: Entry) -> Summary:
    """Ten seconds; names such as `detect`, `detect_failed`."""
    entries = {(f"/{name.replace('_', ' ')}", "POST"): one for name, one in requests.items()}
    stats = SimpleNamespace(entries=entries, start_time=100.0, last_request_timestamp=110.0)
    return summarise(stats, ledger or Ledger(), 2)


MIXED = summary(
    classify=Entry(80, ms=100), classify_mistake=Entry(10), classify_refused=Entry(8),
    classify_failed=Entry(2, failures=2), detect=Entry(100, ms=1000),
)  # fmt: skip


class Parser:
    """Takes what Locust's takes; groups matter to readers only."""

    def __init__(self) -> None:
        self.plain = argparse.ArgumentParser()

    def add_argument(self, *names: str, **options: Any) -> None:
        assert options.pop("env_var").startswith("LOCUST_")
        options.pop("is_secret", None)
        self.plain.add_argument(*names, **options)

    def add_argument_group(self, title: str) -> "Parser":
        return self


def parsed(line: str = "") -> argparse.Namespace:
    parser = Parser()
    add_arguments(parser)
    return parser.plain.parse_args(line.split())


def test_refusals_and_mistakes_are_neither_errors_nor_lost() -> None:
    assert MIXED.requests == 200
    assert MIXED.error_ratio == 0.01
    assert MIXED.refused_ratio == 0.04
    assert MIXED.rate == 19.0
    assert MIXED.tasks["classify"].mistakes == 10
    assert MIXED.tasks["detect"].ms == {"p50": 500.0, "p90": 900.0, "p99": 990.0}


@pytest.mark.parametrize(
    ("kept", "crossed", "line"),
    [
        ({"error_ratio": 0.01}, {"error_ratio": 0.009}, "share of errors is 0.0100"),
        ({"refused_ratio": 0.04}, {"refused_ratio": 0.0}, "share of refused requests is 0.0400"),
        ({"min_rate": 19.0}, {"min_rate": 19.1}, "rate is 19.00 right answers/s"),
        ({"p99_ms": {"detect": 990}}, {"p99_ms": {"detect": 989}}, "p99 of detect is 990 ms"),
        ({"p99_ms": {"segment": 1}}, {"p99_ms": {"classify": 50}}, "p99 of classify is 99 ms"),
    ],
)
def test_each_limit_can_be_kept_and_crossed(
    kept: dict[str, object], crossed: dict[str, object], line: str
) -> None:
    def found(given: dict[str, object]) -> list[str]:
        return list(broken(MIXED, Limits(**{**vars_of(NO_LIMITS), **given})))  # type: ignore[arg-type]

    assert found(kept) == []
    (only,) = found(crossed)
    assert only.startswith(line)


def vars_of(one: Limits) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def test_a_run_without_a_right_answer_is_broken_whatever_the_limits() -> None:
    (line,) = broken(summary(detect_refused=Entry(5)), NO_LIMITS)
    assert line == "no request was answered as it should be"
    lines = list(
        broken(
            summary(detect_failed=Entry(5), classify=Entry(1)), Limits(1, 1, None, {"detect": 9})
        )
    )
    assert lines == ["detect has no p99: no request was answered as it should be"]


def test_the_pages_of_all_processes_are_added_up() -> None:
    ledger = Ledger()
    for late in (0.001, 0.5):
        counter = Counter()
        counter.offered, counter.unsent, counter.images, counter.requests = 50, 1, 60, 49
        counter.late, counter.spawner_s = [late] * 50, 10.0
        ledger.merge(counter.take())
        assert counter.take()["offered"] == 0
    found = summary(ledger, classify=Entry(98))
    assert found.offered_rate == 10.0
    assert (found.unsent, found.images_per_s) == (2, 12.0)
    assert found.late_ms["p50"] == pytest.approx(1, rel=0.03)
    assert found.late_ms["p99"] == pytest.approx(500, rel=0.03)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_mix, "classify=8, detect=1", {"classify": 8, "detect": 1}),
        (parse_think, "0.5-2", (0.5, 2.0)),
        (parse_think, "0", (0.0, 0.0)),
        (parse_p99, "500", {"classify": 500, "detect": 500, "segment": 500}),
        (parse_p99, "detect=2000", {"detect": 2000}),
        (parse_p99, "", {}),
    ],
)
def test_values_of_options(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    "line",
    [
        "--mix classfy=1", "--mix detect=0", "--mix detect=-1", "--mix 3", "--think-s 2-1",
        "--max-p99-ms soon", "--max-error-ratio 2", "--rate -1", "--rate nan", "--arrivals never",
        "--mistakes 1.1", "--max-megapixels 0",
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed(line)
    assert stopped.value.code == 2
    assert line.split()[0] in capsys.readouterr().err


def test_options_reach_those_who_send_and_those_who_judge() -> None:
    given = parsed("--rate 50 --mix detect=1 --max-p99-ms detect=9 --max-error-ratio 0.5")
    given.smserve_num_spawners = 4
    options = load_options(given)
    assert options.is_open
    assert options.spawner_rate == 12.5
    assert options.mix == {"detect": 1}
    assert limits(given) == Limits(0.5, None, None, {"detect": 9})
    # a form of the web UI sends texts
    given.rate = "0"
    assert not load_options(given).is_open


def test_the_report_lies_beside_locusts_own() -> None:
    def path(**given: str) -> Path | None:
        names = {"report": "", "html_file": None, "csv_prefix": None, **given}
        return report_path(SimpleNamespace(**names))

    assert path() is None
    assert path(html_file="a/b.html", csv_prefix="c") == Path("a/b.json")
    assert path(csv_prefix="a/c") == Path("a/c_report.json")
    assert path(report="x.json", html_file="b.html") == Path("x.json")


def test_a_late_locust_says_so() -> None:
    ledger = Ledger()
    ledger.late.add([0.2] * 10)
    late = summary(ledger, classify=Entry(10))
    nothing = explain(Scrape(()), Scrape(()), 1)
    lines = report_lines(load_options(parsed("--rate 5")), late, nothing, ["too slow"])
    assert any(line.startswith("Locust itself was late") for line in lines)
    assert lines[-1] == "FAILED: too slow"
    closed = report_lines(load_options(parsed()), late, "ConnectionError: no", [])
    assert not any("late" in line for line in closed)
    assert "limiting stage unknown: ConnectionError: no" in closed


def test_only_the_page_of_this_run_is_added_to(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    add_to_html(page, ["a < b"], written_after=0)
    assert not page.exists()
    page.write_text("<body>Locust</body></html>")
    add_to_html(page, ["a < b"], written_after=page.stat().st_mtime + 1)
    assert "smserve" not in page.read_text()
    add_to_html(page, ["a < b"], written_after=0)
    text = page.read_text()
    assert "a &lt; b" in text
    assert text.startswith("<body>Locust<section")
    assert text.endswith("</section>\n</body></html>")
