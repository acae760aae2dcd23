"""How many processes a machine gets, and which GPU each engine takes."""

import pytest

from service.processes.gpus import VISIBLE
from service.processes.layout import plan_layout
from service.settings import Settings


def test_two_engines_on_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "3,5")
    layout = plan_layout(Settings())
    assert layout.engines == 4
    assert [layout.gpu_of(engine) for engine in range(4)] == ["3", "5", "3", "5"]
    assert layout.fronts >= 1


def test_as_many_engines_as_the_operator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0")
    assert plan_layout(Settings(processes={"engines": 1})).engines == 1


@pytest.mark.parametrize("choice", [{"device": "cpu"}, {"backend": "stub"}])
def test_one_process_that_computes_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, choice: dict[str, str]
) -> None:
    monkeypatch.setenv(VISIBLE, "0")
    layout = plan_layout(Settings.model_validate(choice))
    assert (layout.fronts, layout.engines, layout.gpus) == (0, 1, ())
