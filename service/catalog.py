"""Which models are served: those of the operator's folder, then those that ship."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from model.config import TaskName
from service.backends.base import Backend
from service.backends.selection import open_backend, select_backend
from service.backends.stub import StubBackend
from service.backends.torch_backend import file_sha256, limit_threads, select_device
from service.capacity import capacity_for
from service.cores import granted_cores, usable_cores
from service.engine.base import ServedModel
from service.errors import ModelNotFoundError
from service.model_hashes import ModelHashError, verify_model_hash
from service.settings import Settings, SettingsError
from service.shipped import shipped_models

log = logging.getLogger(__name__)

ThingT = TypeVar("ThingT")


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A loaded model and its description.

    Attributes:
        loading: a number of its own for every entry of this process.
        since: when it was loaded, seconds since 1970.
    """

    backend: Backend
    model: ServedModel
    loading: int = field(default_factory=count(1).__next__)
    since: float = field(default_factory=time.time)


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
        ModelHashError: a model file is not the one it should be; nothing has been loaded then.
        CheckpointError: an unusable model file.
        ValueError: a device that is not there.
        UnsupportedGPUError: a GPU that `triton` cannot use.
    """
    if settings.backend == "stub":
        return _describe(_open_stubs(settings))
    files = model_files(settings)
    limit_threads(settings.torch_threads or _suitable_threads(settings))
    return _describe(_open_files(files, settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogChanges:
    """What looking at the model files again has found.

    Attributes:
        entries: all models as they should be served now, by priority.
        loaded: those of them that are new or have changed, not warmed up yet.
        gone: names of models whose files are there no longer.
    """

    entries: tuple[CatalogEntry, ...]
    loaded: tuple[CatalogEntry, ...]
    gone: tuple[str, ...]


def reload_catalog(
    settings: Settings, current: Mapping[str, CatalogEntry], name: str | None = None
) -> CatalogChanges:
    """Load the models that are new or whose files have changed. Slow; call it off the event loop.

    The current entries are left alone, so whatever goes wrong, they can go on serving. Models of
    the stub have no files: they are always made anew.

    Args:
        current: what is served, by name of the model.
        name: look at this model only; None: at all of them.

    Raises:
        ModelNotFoundError: no model of this name is there, nor was there one.
        Exception: as `open_catalog`.
    """
    if settings.backend == "stub":
        found = {backend.spec.name: backend for backend in _open_stubs(settings)}
        names, loaded = list(found), _only(found, name)
    else:
        files = _files_by_name(model_files(settings))
        names = list(files)
        changed = {
            model: path
            for model, path in _only(files, name).items()
            if model not in current or file_sha256(path) != current[model].backend.sha256
        }
        backends = _open_files(list(changed.values()), settings)
        loaded = {backend.spec.name: backend for backend in backends}
    if name is not None and name not in names and name not in current:
        raise ModelNotFoundError(f"there is no model {name[:60]!r}")
    gone = [model for model in current if model not in names and name in (None, model)]
    kept = {model: entry.backend for model, entry in current.items() if model not in gone}
    # what was not looked at stays, also where its file is gone
    order = [*names, *(model for model in kept if model not in names)]
    after = kept | loaded
    described = _describe([after[model] for model in order if model in after])
    entries = tuple(_unless_new(entry, current) for entry in described)
    return CatalogChanges(
        entries=entries,
        loaded=tuple(entry for entry in entries if entry.model.spec.name in loaded),
        gone=tuple(gone),
    )


def _unless_new(entry: CatalogEntry, current: Mapping[str, CatalogEntry]) -> CatalogEntry:
    """What stays keeps its number and its time; whether it is a default may have changed."""
    old = current.get(entry.model.spec.name)
    if old is None or old.backend is not entry.backend:
        return entry
    return replace(entry, loading=old.loading, since=old.since)


def _only(things: Mapping[str, ThingT], name: str | None) -> dict[str, ThingT]:
    return {key: thing for key, thing in things.items() if name in (None, key)}


def _files_by_name(files: Sequence[Path]) -> dict[str, Path]:
    from model.checkpoint import read_spec

    found: dict[str, Path] = {}
    for path in files:
        name = read_spec(path).name
        if name in found:
            raise _two_of_one_name(name)
        found[name] = path
    return found


def _open_stubs(settings: Settings) -> list[Backend]:
    return [StubBackend(task, settings.stub) for task in TaskName]


def _open_files(files: Sequence[Path], settings: Settings) -> list[Backend]:
    # all of them before the first one is loaded
    expected = [verify_model_hash(path, settings.model_hashes) for path in files]
    selection = select_backend(settings.backend, settings.device)  # type: ignore[arg-type]  # never `stub`
    batch_images = capacity_for(settings, selection.device).batch_images
    backends = []
    for path, sha256 in zip(files, expected, strict=True):
        extra = {"path": str(path), "backend": selection.kind, "device": selection.device}
        log.info("loading model", extra=extra)
        backend = open_backend(path, selection, gpu=settings.gpu, batch_images=batch_images)
        if sha256 not in (None, backend.sha256):
            raise ModelHashError(
                f"{path} changed while it was loaded: SHA-256 {backend.sha256}, before {sha256}"
            )
        backends.append(backend)
    return backends


def _suitable_threads(settings: Settings) -> int | None:
    """Threads of one operation on the CPU; None: torch decides."""
    if select_device(settings.device) != "cpu":
        # what is left for the CPU is small, and where all cores are busy decoding, threads that
        # wait for each other wait for cores
        return 1
    # torch counts the machine's cores, whatever a container is granted of them
    return usable_cores() if granted_cores() else None


def _two_of_one_name(name: str) -> SettingsError:
    return SettingsError(f"two model files are both named {name!r}")


def _describe(backends: Sequence[Backend]) -> tuple[CatalogEntry, ...]:
    names: set[str] = set()
    tasks: set[TaskName] = set()
    entries = []
    for backend in backends:
        spec = backend.spec
        if spec.name in names:
            raise _two_of_one_name(spec.name)
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
