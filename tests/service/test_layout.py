"""How many processes a machine gets, and which GPU each engine takes."""

import pynvml
import pytest

from service.processes.gpus import VISIBLE, memory_bytes
from service.processes.layout import plan_layout
from service.settings import Settings


def have_gpus(monkeypatch: pytest.MonkeyPatch, **gib: int | None) -> None:
    """GPUs of so much memory, by their names."""
    monkeypatch.setenv(VISIBLE, ",".join(gib))
    sizes = {name: None if size is None else size * 1024**3 for name, size in gib.items()}
    monkeypatch.setattr("service.processes.layout.memory_bytes", sizes.get)


def test_two_engines_on_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    have_gpus(monkeypatch, **{"3": 80, "5": 80})
    layout = plan_layout(Settings())
    assert layout.engines == 4
    assert [layout.gpu_of(engine) for engine in range(4)] == ["3", "5", "3", "5"]
    assert layout.fronts >= 1


@pytest.mark.parametrize("size", [24, None], ids=str)
def test_one_engine_where_memory_is_short_or_unknown(
    monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    have_gpus(monkeypatch, **{"0": 80, "1": size})
    assert plan_layout(Settings()).engines == 2


def test_without_a_driver_the_memory_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert memory_bytes("0") is None
    assert memory_bytes("GPU-1") is None


def test_as_many_engines_as_the_operator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    have_gpus(monkeypatch, **{"0": 80})
    assert plan_layout(Settings(processes={"engines": 1})).engines == 1


@pytest.mark.parametrize("choice", [{"device": "cpu"}, {"backend": "stub"}])
def test_one_process_that_computes_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, choice: dict[str, str]
) -> None:
    monkeypatch.setenv(VISIBLE, "0")
    layout = plan_layout(Settings.model_validate(choice))
    assert (layout.fronts, layout.engines, layout.gpus) == (0, 1, ())
