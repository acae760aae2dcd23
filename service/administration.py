"""What operators can do to a service that is one process; see `service.admin`."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from model.config import TaskName
from service.admin import ModelChange, ModelReport, ProcessReport, ReloadReport, ServiceReport
from service.catalog import CatalogChanges, CatalogEntry
from service.engine.core import EngineCore


class EngineAdministration:
    """An `Administration` of one engine.

    Args:
        name: of its process.
    """

    def __init__(self, core: EngineCore, *, name: str) -> None:
        self._core = core
        self._name = name
        self._since = time.time()

    async def reload(self, model: str | None) -> ReloadReport:
        """See `EngineCore.reload`."""
        started, before = time.monotonic(), dict(self._core.entries())
        found = await self._core.reload(model)
        changes = (*_loaded(found, before), *_gone(found, before))
        return ReloadReport(changes=changes, seconds=time.monotonic() - started)

    async def status(self) -> ServiceReport:
        """This process and its models."""
        status = self._core.status()
        process = ProcessReport(
            name=self._name,
            state=status.state,
            pid=os.getpid(),
            since=self._since,
            detail=status.detail,
        )
        return ServiceReport(processes=(process,), models=model_reports(self._core))


def model_reports(core: EngineCore) -> tuple[ModelReport, ...]:
    """The models that answer."""
    return tuple(
        ModelReport(
            name=entry.model.spec.name,
            task=entry.model.spec.task,
            sha256=entry.model.sha256,
            since=entry.since,
        )
        for entry in core.entries().values()
    )


def reload_to_fields(report: ReloadReport) -> dict[str, Any]:
    """JSON types only."""
    return asdict(report)


def reload_from_fields(fields: Mapping[str, Any]) -> ReloadReport:
    """Inverse of `reload_to_fields`."""
    changes = (ModelChange(**{**own, "task": TaskName(own["task"])}) for own in fields["changes"])
    return ReloadReport(changes=tuple(changes), seconds=fields["seconds"])


def models_from_fields(fields: Mapping[str, Any]) -> tuple[ModelReport, ...]:
    """Inverse of the dataclasses' `asdict`."""
    return tuple(ModelReport(**{**own, "task": TaskName(own["task"])}) for own in fields["models"])


def _loaded(found: CatalogChanges, before: Mapping[str, CatalogEntry]) -> tuple[ModelChange, ...]:
    changes = []
    for entry in found.loaded:
        old = before.get(entry.model.spec.name)
        changes.append(
            ModelChange(
                name=entry.model.spec.name,
                task=entry.model.spec.task,
                change="new" if old is None else "changed",
                sha256=entry.model.sha256,
                previous_sha256=None if old is None else old.model.sha256,
            )
        )
    return tuple(changes)


def _gone(found: CatalogChanges, before: Mapping[str, CatalogEntry]) -> tuple[ModelChange, ...]:
    return tuple(
        ModelChange(
            name=name,
            task=before[name].model.spec.task,
            change="gone",
            sha256=None,
            previous_sha256=before[name].model.sha256,
        )
        for name in found.gone
    )
