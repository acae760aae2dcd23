"""What a backend does without a service around it: batch after batch of decoded pictures.

python -m loadtests.bare_engine --model FILE --batch 128 --pictures FOLDER

The pictures are decoded and prepared before the clock runs; copies to and from the device count. A
thread stages the next batch while one is computed, as the service does. The result is one line of
JSON.
"""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from model.config import TaskName
from model.images import DecodeLimits, decode_rgb
from model.results import DEFAULT_PARAMS, DetectParams, Params
from service.backends.base import Backend, BatchWarmUp
from service.backends.selection import open_backend, select_backend
from service.setting_groups import GpuSettings

_LIMITS = DecodeLimits(max_pixels=50_000_000, max_side=16_384)


def open_model(path: Path, batch_images: int) -> Backend:
    """As the service opens it, on the GPU if there is one."""
    selection = select_backend("auto", "auto")
    return open_backend(path, selection, gpu=GpuSettings(), batch_images=batch_images)


def decode(backend: Backend, picture: bytes) -> Any:
    """An encoded picture as the backend's network sees it."""
    return backend.prepare(decode_rgb(picture, limits=_LIMITS))


def params_of(task: TaskName, *, has_random_weights: bool) -> Params:
    """What the requests of `loadtests.workloads` ask for."""
    if task is TaskName.DETECT and has_random_weights:
        return DetectParams(score_threshold=0.0)
    return DEFAULT_PARAMS[task]


def compute(backend: Backend, batch: Sequence[Any], params: Sequence[Params]) -> list[Any]:
    """Stage and infer, one after the other."""
    return backend.infer(backend.stage(batch, params))


def warm_up(backend: Backend, batch: Sequence[Any], params: Sequence[Params]) -> None:
    """Compile and capture what a batch of this size and shape needs."""
    if isinstance(backend, BatchWarmUp):
        backend.warm_up(len(batch))
    for _ in range(2):
        compute(backend, batch, params)


def seconds_per_batch(
    backend: Backend, batch: Sequence[Any], params: Sequence[Params], budget_s: float
) -> float:
    """Mean time of a batch in a row of at least three, the next one staged meanwhile."""
    with ThreadPoolExecutor(1) as stager:
        following = stager.submit(backend.stage, batch, params)
        started, done = time.perf_counter(), 0
        while done < 3 or time.perf_counter() < started + budget_s:
            staged = following.result()
            following = stager.submit(backend.stage, batch, params)
            backend.infer(staged)
            done += 1
        return (time.perf_counter() - started) / done


def main() -> None:
    """Measure one batch size in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--budget-s", type=float, default=3.0)
    parser.add_argument("--random-weights", action="store_true", help="detection keeps everything")
    args = parser.parse_args()
    backend = open_model(args.model, args.batch)
    pictures = [path.read_bytes() for path in sorted(args.pictures.glob("*.jpg"))]
    pictures = [pictures[index % len(pictures)] for index in range(args.batch)]
    batch = [decode(backend, picture) for picture in pictures]
    params = [params_of(backend.spec.task, has_random_weights=args.random_weights)] * args.batch
    warm_up(backend, batch, params)
    seconds = seconds_per_batch(backend, batch, params, args.budget_s)
    print(json.dumps({"images_per_s": args.batch / seconds, "seconds": seconds}))


if __name__ == "__main__":
    main()
