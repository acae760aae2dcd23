"""What operators can do to a service of several processes; see `service.admin`."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from service.admin import ModelReport, ProcessReport, ReloadReport, ServiceReport
from service.administration import models_from_fields, reload_from_fields
from service.errors import ReloadRefusedError
from service.processes.channel import ChannelClosedError
from service.processes.children import Child, Kind

# a large model, on a slow disk, with all its graphs
_RELOAD_S: Final = 1800.0
_ANSWER_S: Final = 5.0


class ChildrenAdministration:
    """An `Administration` that asks the processes.

    Args:
        children: the living ones, by name.
        num_restarts: of the process of a name.
    """

    def __init__(
        self, children: Callable[[], Iterable[Child]], num_restarts: Callable[[str], int]
    ) -> None:
        self._children = children
        self._num_restarts = num_restarts

    async def reload(self, model: str | None) -> ReloadReport:
        """One engine after the other, so that the others answer at full speed meanwhile.

        Raises:
            ServiceError: of the first engine that could not; those before it have the new models,
                the others keep the old ones.
        """
        started, reports = time.monotonic(), list[ReloadReport]()
        engines = self._engines()
        if not engines:
            raise ReloadRefusedError("no engine is ready")
        for name, engine in engines.items():
            if engine.peer is None or not engine.is_alive:
                raise ReloadRefusedError(f"{name} is not ready")
            try:
                fields, _ = await engine.peer.ask("reload", {"model": model}, timeout_s=_RELOAD_S)
            except ChannelClosedError as exc:
                raise ReloadRefusedError(f"{name} has gone meanwhile") from exc
            reports.append(reload_from_fields(fields))
        changes = {change.name: change for report in reports for change in report.changes}
        return ReloadReport(changes=tuple(changes.values()), seconds=time.monotonic() - started)

    async def status(self) -> ServiceReport:
        """All processes, and the models of the first engine that answers."""
        return ServiceReport(
            processes=tuple(self._describe(child) for child in self._children()),
            models=await self._models(),
        )

    def _engines(self) -> Mapping[str, Child]:
        return {child.name: child for child in self._children() if child.kind is Kind.ENGINE}

    def _describe(self, child: Child) -> ProcessReport:
        return ProcessReport(
            name=child.name,
            state=child.state,
            pid=child.process.pid or 0,
            since=child.since,
            num_restarts=self._num_restarts(child.name),
            detail=child.detail,
        )

    async def _models(self) -> tuple[ModelReport, ...]:
        for engine in self._engines().values():
            if engine.peer is None:
                continue
            try:
                fields, _ = await engine.peer.ask("models", timeout_s=_ANSWER_S)
            except (ChannelClosedError, TimeoutError):
                continue
            return models_from_fields(fields)
        return ()
