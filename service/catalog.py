"""Which models are served: those of the operator's folder, then those that ship."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.config import TaskName
from service.backends.base import Backend
from service.backends.selection import open_backend, select_backend
from service.backends.stub import StubBackend
from service.backends.torch_backend import limit_threads
from service.capacity import capacity_for
from service.engine.base import ServedModel
from service.settings import Settings, SettingsError
from service.shipped import shipped_models

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A loaded model and its description."""

    backend: Backend
    model: ServedModel


def model_files(settings: Settings) -> list[Path]:
    """Files to serve, by priority: the first one of a task is its default.

    Raises:
        SettingsError: the folder does not exist, or there is nothing to serve.
    """
    files: list[Path] = []
    if settings.models_dir is not None:
        if not settings.models_dir.is_dir():
            raise SettingsError(f"models_dir {settings.models_dir} is not a folder")
        files += sorted(settings.models_dir.glob("*.safetensors"))
    if settings.demo_models:
        files += shipped_models()
    if not files:
        raise SettingsError(
            "no models to serve: models_dir has no .safetensors files and no demo models are "
            "installed; make model files with `smserve convert`"
        )
    return files


def open_catalog(settings: Settings) -> tuple[CatalogEntry, ...]:
    """Load every model. Slow; call it off the event loop.

    Raises:
        SettingsError: nothing to serve, two models of one name, or `triton` without a GPU.
        CheckpointError: an unusable model file.
        ValueError: a device that is not there.
        UnsupportedGPUError: a GPU that `triton` cannot use.
    """
    if settings.backend == "stub":
        backends: Sequence[Backend] = [StubBackend(task, settings.stub) for task in TaskName]
    else:
        files = model_files(settings)
        limit_threads(settings.torch_threads)
        selection = select_backend(settings.backend, settings.device)
        batch_images = capacity_for(settings, selection.device).batch_images
        backends = []
        for path in files:
            extra = {"path": str(path), "backend": selection.kind, "device": selection.device}
            log.info("loading model", extra=extra)
            backends.append(
                open_backend(path, selection, gpu=settings.gpu, batch_images=batch_images)
            )
    return _describe(backends)


def _describe(backends: Sequence[Backend]) -> tuple[CatalogEntry, ...]:
    names: set[str] = set()
    tasks: set[TaskName] = set()
    entries = []
    for backend in backends:
        spec = backend.spec
        if spec.name in names:
            raise SettingsError(f"two model files are both named {spec.name!r}")
        names.add(spec.name)
        model = ServedModel(
            spec=spec,
            backend=backend.kind,
            device=backend.device,
            dtype=backend.dtype,
            sha256=backend.sha256,
            is_default=spec.task not in tasks,
        )
        tasks.add(spec.task)
        entries.append(CatalogEntry(backend, model))
    return tuple(entries)
