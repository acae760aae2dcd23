"""What `smserve evaluate` was asked for."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from model.config import TaskName
from service.cli.choices import BackendName, Device


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What was typed; `work` is where the run's state is kept, once that is known."""

    task: TaskName
    data: Path
    model: Path
    multi_scale: bool
    labels: Path | None
    synsets: Path | None
    limit: int | None
    skip_unreadable: bool
    batch_size: int
    num_threads: int
    device: Device
    backend: BackendName
    work: Path | None
    fresh: bool
    json: Path | None

    def command(self, work: Path) -> str:
        """The command that goes on with this evaluation."""
        flags = {
            "data": self.data,
            "model": self.model,
            "labels": self.labels,
            "synsets": self.synsets,
            "limit": self.limit,
            "batch-size": self.batch_size,
            "threads": self.num_threads,
            "device": self.device,
            "backend": self.backend,
            "work": work,
            "json": self.json,
        }
        words = ["smserve", "evaluate", str(self.task)]
        for name, value in flags.items():
            words += [f"--{name}", str(value)] if value is not None else []
        words += ["--multi-scale"] if self.multi_scale else []
        words += ["--skip-unreadable"] if self.skip_unreadable else []
        return shlex.join(words)
