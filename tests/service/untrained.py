"""Small model files with random weights."""

from pathlib import Path
from typing import Any

import torch

from model.checkpoint import build_network, save_model
from model.config import InputConfig, ModelSpec, TaskName
from service.settings import Settings

INPUTS = {
    TaskName.CLASSIFY: InputConfig(short=64, crop=64),
    TaskName.DETECT: InputConfig(short=64, long=96, pad_multiple=32),
    TaskName.SEGMENT: InputConfig(short=64, long=128),
}


def save_untrained(
    folder: Path, task: TaskName, name: str, file: str | None = None, *, seed: int = 0
) -> Path:
    spec = ModelSpec(
        name=name,
        task=task,
        variant="demo",
        class_names=("cat", "dog", "bird"),
        input=INPUTS[task],
        demo=False,
    )
    torch.manual_seed(seed)
    path = folder / f"{file or name}.safetensors"
    save_model(path, build_network(spec).state_dict(), spec)
    return path


def settings_for(folder: Path, **overrides: Any) -> Settings:
    """Serve the models of this folder on the CPU, and no others."""
    return Settings(
        **{"models_dir": folder, "demo_models": False, "device": "cpu", "torch_threads": 1},
        **overrides,
    )
