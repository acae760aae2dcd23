"""Which model file a command means, and what computes it."""

from pathlib import Path
from typing import TYPE_CHECKING

from model.config import TaskName
from service.cli.choices import BackendName, Device
from service.cli.console import UsageError

if TYPE_CHECKING:
    from service.backends.base import Backend


def model_file(task: TaskName, path: Path | None) -> Path:
    """The file that was given, or that of the demo model for this task.

    Raises:
        UsageError: a model for another task, or no demo model is installed.
        CheckpointError: an unusable model file.
    """
    from model.checkpoint import read_spec
    from service.shipped import shipped_models

    if path is None:
        shipped = (file for file in shipped_models() if read_spec(file).task == task)
        path = next(shipped, None)
        if path is None:
            raise UsageError(f"no demo model for {task} is installed; give one with --model FILE")
    spec = read_spec(path)
    if spec.task != task:
        raise UsageError(f"{path} is a model for {spec.task}, asked for {task}")
    return path


def open_model(path: Path, backend: BackendName, device: Device, batch_size: int) -> "Backend":
    """Load a model file; see `service.backends.selection`."""
    from service.backends.selection import open_backend, select_backend
    from service.setting_groups import GpuSettings

    selection = select_backend(backend.value, device)
    return open_backend(path, selection, gpu=GpuSettings(), batch_images=batch_size)
