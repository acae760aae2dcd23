"""An engine process: models and a device, no HTTP."""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from service.administration import EngineAdministration, model_reports, reload_to_fields
from service.engine.core import EngineCore
from service.errors import ReloadFailedError, ServiceError
from service.memory import bound_memory
from service.pool import CpuPool
from service.processes.child import Control, begin, report, settle
from service.processes.engine_server import EngineServer
from service.processes.gpus import use_only
from service.processes.layout import engine_socket
from service.processes.peer import Content
from service.settings import Settings
from service.telemetry import Metrics

log = logging.getLogger(__name__)

_REPORT_S: Final = 0.5
_FAILED: Final = 1


def run_engine(index: int, gpu: str | None, settings: Settings, folder: Path) -> None:
    """The whole life of the process; it ends by the supervisor's word.

    Args:
        gpu: as CUDA_VISIBLE_DEVICES names it; None: as the settings say.
        folder: where the sockets are.
    """
    begin(f"smserve-engine[{index}]", settings)
    if gpu is not None:
        use_only(gpu)
    bound_memory()
    import uvloop

    status = uvloop.run(_EngineProcess(index, settings, folder).run())
    logging.shutdown()
    # the device thread may be inside a computation that nobody can interrupt
    os._exit(status)


class _EngineProcess:
    def __init__(self, index: int, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._path = engine_socket(folder, index)
        self._metrics = Metrics()
        self._pool = CpuPool(settings.pool_size)
        self._core = EngineCore(settings, self._pool, self._metrics, on_failure=self._fail)
        self._server = EngineServer(
            self._core, self._pool, max_images_per_key=settings.queue.max_images_per_key
        )
        self._administration = EngineAdministration(self._core, name=f"engine-{index}")
        self._control = Control(f"engine-{index}", folder, self._metrics)
        self._end: asyncio.Future[int] | None = None

    async def run(self) -> int:
        """Serve -> the exit status."""
        self._end = asyncio.get_running_loop().create_future()
        await self._control.connect(
            answers={"reload": self._reload, "models": self._models},
            notices={"stop": self._stop},
        )
        reporting = asyncio.create_task(
            report(self._control, self._metrics, self._core, every_s=_REPORT_S)
        )
        self._server.listen(self._path)
        starting = asyncio.create_task(self._start())
        status = await self._end
        for task in (reporting, starting):
            task.cancel()
        if status != _FAILED:
            await self._core.stop()
        self._server.close()
        self._control.tell("metrics", {}, self._metrics.registry.snapshot())
        return status

    async def _start(self) -> None:
        try:
            await self._core.start()
        except Exception:  # whatever made a model unusable: the process ends and says why
            log.exception("the engine could not start")
            self._fail("the engine could not start")
            return
        settle()
        self._server.announce()

    async def _reload(self, fields: Mapping[str, Any], payload: bytes) -> Content:
        try:
            report = await self._administration.reload(fields["model"])
        except ServiceError:
            raise
        except Exception as exc:
            log.exception("reload failed")
            raise ReloadFailedError(f"{type(exc).__name__}: {exc}") from exc
        self._server.announce()
        # models that are gone must not stay among what is spared
        settle()
        return reload_to_fields(report), b""

    async def _models(self, fields: Mapping[str, Any], payload: bytes) -> Content:
        return {"models": [asdict(own) for own in model_reports(self._core)]}, b""

    def _stop(self, fields: Mapping[str, Any], payload: bytes) -> None:
        self._core.begin_draining()
        self._finish(0)

    def _fail(self, reason: str) -> None:
        self._finish(_FAILED)

    def _finish(self, status: int) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(status)
