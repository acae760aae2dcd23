"""Each test has a folder, untrained models and a data set of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.config import TaskName
from tests.evaluate_command.runs import NAMES, SIZES
from tests.model.evaluation.layouts import (
    noise,
    write_imagenet,
)
from tests.service.conftest import _clean_environment
from tests.service.untrained import save_untrained


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs keep their state in the folder where they start."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the processes that the tests start: rounding depends on it. Small networks like it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskName, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {task: save_untrained(folder, task, f"random-{task}") for task in TaskName}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """24 pictures of three shapes in folders of classes."""
    pictures = {f"{NAMES[i % 3]}/{i:02d}.png": noise(i, *SIZES[i % len(SIZES)]) for i in range(24)}
    return write_imagenet(tmp_path / "data", pictures)


__all__ = ["_clean_environment"]
