"""How many processes there are, what they are called, and where they meet."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.capacity import default_frontends
from service.processes.gpus import memory_bytes, visible_gpus
from service.settings import Settings

CONTROL: Final = "control.sock"
# one interpreter does not feed a large GPU with small pictures (docs/decisions/0013)
_ENGINES_PER_GPU: Final = 2
# of a GPU's memory: models, their graphs and CUDA's own are there once for each engine
_ROOM_FOR_TWO: Final = 32 * 1024**3


@dataclass(frozen=True, slots=True)
class Layout:
    """The processes of one service.

    Attributes:
        fronts: processes that speak HTTP; 0: one process does everything.
        engines: processes that compute.
        gpus: as CUDA_VISIBLE_DEVICES names them; none: everything computes on the CPU.
    """

    fronts: int
    engines: int
    gpus: tuple[str, ...]

    def gpu_of(self, engine: int) -> str | None:
        """The GPU of an engine; None on the CPU."""
        return self.gpus[engine % len(self.gpus)] if self.gpus else None


def plan_layout(settings: Settings) -> Layout:
    """The operator's numbers, and what suits the machine for those left out."""
    on_cpu = settings.device == "cpu" or settings.backend == "stub"
    gpus = () if on_cpu else visible_gpus()
    fronts = settings.frontends
    if fronts == "auto":
        fronts = default_frontends() if gpus else 0
    engines = settings.processes.engines
    if engines == "auto":
        engines = max(1, len(gpus) * _engines_per_gpu(gpus))
    return Layout(fronts, int(engines), gpus)


def _engines_per_gpu(gpus: tuple[str, ...]) -> int:
    is_roomy = all((memory_bytes(gpu) or 0) >= _ROOM_FOR_TWO for gpu in gpus)
    return _ENGINES_PER_GPU if is_roomy else 1


def engine_socket(folder: Path, index: int) -> Path:
    """Where an engine listens for front ends."""
    return folder / f"engine-{index}.sock"
