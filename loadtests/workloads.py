"""What is served and sent in a benchmark over HTTP: a model file and pictures for each task.

Every process of the load generator imports this module, through the program that started it: what
needs torch is imported where it is used.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.shipped import model_files
from loadtests.generator.payloads import (
    Payload,
    jpeg_pictures,
    multipart_payloads,
    raw_payloads,
)
from model.config import TaskName

# (width, height, bytes of a JPEG): a usual photograph of each task's data sets
PICTURES: Final = {
    TaskName.CLASSIFY: (500, 375, 50_000),
    TaskName.DETECT: (1333, 800, 280_000),
    TaskName.SEGMENT: (512, 512, 70_000),
}
_QUICK_PICTURES: Final = {
    TaskName.CLASSIFY: (500, 375, 50_000),
    TaskName.DETECT: (320, 240, 25_000),
    TaskName.SEGMENT: (256, 256, 20_000),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """One task's share of a benchmark.

    Attributes:
        label: model and size of the pictures, e.g. `classify-tiny-500x375`.
        query: of every request.
    """

    task: TaskName
    label: str
    model_file: Path
    pictures: Sequence[bytes]
    query: str = ""

    def payloads(self, path: str | None = None, files: int = 1) -> list[Payload]:
        """Requests with `files` pictures each; more than one go as multipart.

        Of those only as many as show each picture about twice: every process gets them all.
        """
        target = f"{path or f'/{self.task}'}{self.query}"
        if files == 1:
            return raw_payloads(target, self.pictures)
        return multipart_payloads(target, self.pictures, files, step=max(1, files // 2))

    def form_payloads(self, path: str) -> list[Payload]:
        """One picture a request, as the file of a form."""
        return multipart_payloads(path, self.pictures, 1)


def published_size(task: TaskName, variant: str, folder: Path, *, different: int) -> Workload:
    """A model of the published size with random weights, written into `folder`.

    Random weights find no object above the usual threshold. Detection therefore asks for threshold
    0, which finds 100 objects with masks in every picture: more work than photographs make.
    """
    import torch

    from benchmarks.bench_cpu import make_spec
    from model.checkpoint import build_network, save_model

    torch.manual_seed(0)
    spec = make_spec(task, variant)
    path = folder / f"{spec.name}.safetensors"
    save_model(path, build_network(spec).state_dict(), spec)
    width, height, size = PICTURES[task]
    return Workload(
        task=task,
        label=f"{task}-{variant}-{width}x{height}",
        model_file=path,
        pictures=jpeg_pictures(width, height, number=different, target_bytes=size),
        query="?threshold=0" if task is TaskName.DETECT else "",
    )


def demo_size(task: TaskName, *, folder: Path, different: int) -> Workload:
    """The demo model that ships, copied into `folder`, and small pictures, for a CPU."""
    from model.checkpoint import read_spec

    (shipped,) = [one for one in model_files() if read_spec(one).task is task]
    path = Path(shutil.copy(shipped, folder))
    width, height, size = _QUICK_PICTURES[task]
    return Workload(
        task=task,
        label=f"{task}-demo-{width}x{height}",
        model_file=path,
        pictures=jpeg_pictures(width, height, number=different, target_bytes=size),
    )
