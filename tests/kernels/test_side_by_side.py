"""Compiling many kernels at a time: what happens to launches meanwhile."""

import threading
from typing import Any

import pytest
from triton.runtime.jit import JITFunction

from kernels.side_by_side import compiled_side_by_side


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each launch was only to compile."""
    seen: list[bool] = []

    def run(_self: Any, *, grid: Any, warmup: bool) -> None:
        del grid
        seen.append(warmup)

    monkeypatch.setattr(JITFunction, "run", run)
    return seen


def launch() -> None:
    JITFunction.run(None, grid=(1,), warmup=False)


def test_only_this_threads_launches_are_kept_from_running(launches: list[bool]) -> None:
    with compiled_side_by_side():
        launch()
        other = threading.Thread(target=launch)
        other.start()
        other.join()
    launch()
    assert launches == [True, False, False]


def test_launches_run_again_after_an_error(launches: list[bool]) -> None:
    with pytest.raises(ZeroDivisionError), compiled_side_by_side():
        raise ZeroDivisionError
    launch()
    assert launches == [False]


def test_two_threads_leave_nothing_behind(launches: list[bool]) -> None:
    """They take turns: otherwise the second one would restore what the first one had put in."""

    def compile_some() -> None:
        for _ in range(50):
            with compiled_side_by_side():
                launch()

    threads = [threading.Thread(target=compile_some) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    launch()
    assert launches == [True] * 100 + [False]
