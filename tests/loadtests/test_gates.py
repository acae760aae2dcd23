"""The gates in their short form, with one process and with front ends; and that they can fail."""

import importlib
from typing import Any

import pytest

from benchmarks.report import Row
from loadtests.gates import abandon, crash, drain, faults, overload, soak
from loadtests.gates.answers import FLOAT32, differences
from loadtests.gates.gate import (
    GateOptions,
    GateReport,
    classify_payloads,
    gate_main,
)
from loadtests.generator.histogram import LatencyHistogram
from loadtests.generator.plan import LoadPlan
from loadtests.generator.recorder import LoadResult, Record
from loadtests.generator.run import run_load
from loadtests.scrape import Scrape

GATES = ("drain", "crash", "overload", "abandon", "soak", "faults", "exactness")


# front ends have all that one process has, and more to go wrong; every night all run in both forms
ALONE = ("drain", "crash", "abandon", "faults")
# tests of the supervisor kill the same processes
NIGHTLY = {*((gate, 0) for gate in ALONE), ("crash", 2)}
FORMS = [
    pytest.param(*form, marks=[pytest.mark.nightly] if form in NIGHTLY else [])
    for form in (*((gate, 0) for gate in ALONE), *((gate, 2) for gate in GATES))
]


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "frontends"), FORMS)
def test_short_form(gate: str, frontends: int) -> None:
    run = importlib.import_module(f"loadtests.gates.{gate}").run
    report = run(GateOptions(frontends=frontends, is_short=True))
    report.print()
    assert report.failures == []
    assert report.rows


@pytest.mark.slow
@pytest.mark.nightly
def test_a_leak_is_noticed() -> None:
    report = soak.run(GateOptions(is_short=True), leak_bytes=500_000)
    assert any("growth" in failure or "rise" in failure for failure in report.failures)


def report_of(gate: str = "gate") -> GateReport:
    return GateReport(gate, GateOptions())


def test_a_failed_check_is_an_exit_status(tmp_path: Any) -> None:
    def failing(options: GateOptions) -> GateReport:
        report = GateReport("failing", options)
        report.at_most("latency", 3, 2, "s")
        return report

    def passing(options: GateOptions) -> GateReport:
        report = GateReport("passing", options)
        report.at_least("rate", 3, 2, "1/s")
        report.equal("lost", 0, 0, "requests")
        return report

    out = tmp_path / "gate.json"
    assert gate_main(failing, "", ["--out", str(out)]) == 1
    assert "wanted at most 2" in out.read_text()
    assert gate_main(passing, "", []) == 0


def test_memory_that_grows_is_not_flat() -> None:
    report = report_of()
    soak.judge_flat(report, "level", [(t, 300 + (t % 3)) for t in range(60)])
    assert report.failures == []
    soak.judge_flat(report, "leaking", [(t, 300 + 3 * t) for t in range(60)])
    assert [failure.split(":")[:2] for failure in report.failures] == [
        ["leaking", " growth"],
        ["leaking", " rise in the second half"],
    ]


def record(sent: float, settled: float, status: int = 200, kind: str = "") -> Record:
    return Record(0, sent, sent, settled, status, kind, 1)


def result_of(*records: Record) -> LoadResult:
    return LoadResult(records=list(records), offered=len(records))


@pytest.mark.parametrize(
    ("lost", "complaint"),
    [
        (record(9.9, 10.2, 0, "closed"), "accepted requests lost"),
        (record(9.9, 10.2, 503), "accepted requests lost"),
        (record(10.1, 10.2, 500), "later requests failed in another way"),
        (record(10.1, 12.2, 0, "timeout"), "later requests failed in another way"),
    ],
)
def test_a_lost_request_fails_the_drain(lost: Record, complaint: str) -> None:
    good = [record(9.0, 9.1), record(9.9, 10.3), record(10.2, 10.2, 503)]
    report = report_of("drain")
    drain._judge(report, result_of(*good), 10.0)
    assert report.failures == []
    drain._judge(report, result_of(*good, lost), 10.0)
    assert any(complaint in failure for failure in report.failures)


def test_a_wait_after_a_crash_is_noticed() -> None:
    report = report_of("crash")
    crash._judge_answers(report, "x", result_of(record(9, 11, 503)), 10.0)
    assert report.failures == []
    crash._judge_answers(report, "x", result_of(record(9, 12.5, 503)), 10.0)
    assert len(report.failures) == 1


def test_work_in_vain_is_noticed() -> None:
    def samples(computed: float, dropped: float) -> Scrape:
        return Scrape(
            (
                ("smserve_batch_size_images_sum", {}, computed),
                ("smserve_pixels_total", {}, computed * 224 * 224),
                ("smserve_dropped_total", {"reason": "client_gone"}, dropped),
            )
        )

    result = LoadResult(offered=200)
    result.errors["abandoned"] = 100
    histogram = LatencyHistogram()
    histogram.add([0.1] * 100)
    result.latencies[200] = histogram
    careful, careless = report_of(), report_of()
    abandon._judge_work(careful, result, samples(0, 0), samples(110, 90))
    abandon._judge_work(careless, result, samples(0, 0), samples(200, 0))
    assert careful.failures == []
    assert len(careless.failures) == 2


def test_growing_memory_and_slow_refusals_fail_the_overload() -> None:
    for seconds, is_short in ((0.1, False), (0.3, True)):
        report, slow = report_of(), LatencyHistogram()
        slow.add([seconds] * 50)
        overload._judge_refusals(report, slow, is_short=is_short)
        assert len(report.failures) == 1


@pytest.mark.slow
def test_a_wrong_neighbour_is_noticed() -> None:
    payloads = classify_payloads(4)
    with GateOptions().service() as server:
        plan = LoadPlan(urls=(server.url,), duration_s=0.5, connections=8, keep_answers=100)
        result = run_load(plan, payloads)
    report = report_of()
    wrong = {"predictions": [{"class_id": 0, "score": 0.5}]}
    faults._compare(report, "x", result, dict.fromkeys(range(4), wrong))
    assert len(report.failures) > 10


def box(left: float, score: float = 0.9) -> dict[str, Any]:
    edges = {"xmin": left, "ymin": 0.0, "xmax": 9.0, "ymax": 9.0}
    return {"class_id": 1, "label": "cow", "score": score, "box": edges}


@pytest.mark.parametrize(
    ("alone", "other", "same"),
    [
        ([box(1)], [box(1.001)], True),
        ([box(1)], [box(1.01)], False),
        ([box(1), box(2)], [box(2), box(1)], True),
        ([box(1)], [box(1), box(2)], False),
        ([box(1)], [], False),
        ([{"class_id": 1, "score": 0.7}], [{"class_id": 1, "score": 0.7}], True),
        ([{"class_id": 1, "score": 0.7}], [{"class_id": 1, "score": 0.701}], False),
        ([{"class_id": 1, "score": 0.7}], [{"class_id": 2, "score": 0.70001}], True),
    ],
)
def test_answers_are_compared(alone: Any, other: Any, same: bool) -> None:
    found = differences({"predictions": alone}, {"predictions": other}, FLOAT32)
    assert (found == []) is same


def test_rows_name_the_gate() -> None:
    report = report_of("drain")
    report.note("requests", 3, "requests")
    assert report.rows == [Row("drain", "requests", "requests", 3.0)]
