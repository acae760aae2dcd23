"""What the checkers' output means."""

import pytest

from benchmarks.report import ROOT
from benchmarks.sanitize import CHECKS, Check, command_of, outcome_of

CLEAN = "........\n52 passed, 1302 deselected in 61.2s\n========= ERROR SUMMARY: 0 errors\n"
RACES = (
    "8 passed, 201 deselected in 9s\n"
    "========= RACECHECK SUMMARY: 6 hazards displayed (6 errors, 0 warnings)\n"
)


def test_a_clean_run_has_tests_and_no_errors() -> None:
    found = outcome_of(CLEAN, 0)
    assert (found.passed, found.errors, found.reason) == (52, 0, "")


def test_what_is_reported_is_counted() -> None:
    assert outcome_of(RACES, 0).errors == 6
    # a process that the tests start is checked, too
    assert outcome_of(RACES + "========= ERROR SUMMARY: 1 error\n", 0).errors == 7


@pytest.mark.parametrize(
    ("output", "status", "reason"),
    [
        (CLEAN, None, "time limit"),
        ("52 passed in 1s\n", 0, "no summary"),
        ("1 failed, 7 passed in 1s\n========= ERROR SUMMARY: 0 errors\n", 1, "tests failed"),
        ("8 deselected in 1s\n========= ERROR SUMMARY: 0 errors\n", 5, "tests failed"),
    ],
)
def test_a_run_that_says_nothing_is_no_clean_one(
    output: str, status: int | None, reason: str
) -> None:
    assert reason in outcome_of(output, status).reason


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.name}: {check.tool}")
def test_commands_name_a_checker_and_tests_that_exist(check: Check) -> None:
    command = command_of(check)
    assert command[:3] == ["compute-sanitizer", "--tool", check.tool]
    assert [argument for argument in command if argument.startswith("tests/")]
    for argument in command:
        assert not argument.startswith("tests/") or (ROOT / argument).is_file()


def test_both_checkers_see_the_same_kernels() -> None:
    def files(tool: str) -> set[str]:
        choices = [check.choice for check in CHECKS if check.tool == tool]
        return {argument for choice in choices for argument in choice if ".py" in argument}

    assert files("memcheck") == files("racecheck")
