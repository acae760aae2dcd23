"""What the three training commands share: arguments, the feed, saving, the result file."""

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import Row, write_report
from demo.training.feed import Feed, Pool, default_workers
from demo.training.loop import History, Schedule, plot, train
from demo.training.sources import Scenes, Singles
from model.checkpoint import save_model
from model.config import ModelSpec


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of a training command."""

    pack: Path
    out: Path
    minutes: float
    batch: int
    size: int
    seed: int
    workers: int
    pool: int
    backbone: Path | None
    max_steps: int | None
    device: torch.device


def parse_options(description: str, *, batch: int, size: int, pool: int) -> Options:
    """Command line of a trainer; the keyword arguments are its defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--pack", type=Path, default=Path("pack"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--size", type=int, default=size, help="side of the composed pictures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--pool", type=int, default=pool, help="pictures kept on the device")
    parser.add_argument("--backbone", type=Path, help="trained classifier to start from")
    parser.add_argument("--max-steps", type=int)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Options(**vars(args), device=device)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def start_from(network: nn.Module, classifier: Path | None) -> None:
    """Copy the backbone of a trained classifier, where keys exist."""
    if classifier is None:
        return
    from safetensors.torch import load_file

    state = {k: v.float() for k, v in load_file(classifier).items() if k.startswith("backbone.")}
    result = network.load_state_dict(state, strict=False)
    if result.unexpected_keys:
        raise ValueError(f"{classifier}: not such a backbone: {result.unexpected_keys[:3]}")


def run(
    network: nn.Module,
    spec: ModelSpec,
    source: Singles | Scenes,
    losses: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]],
    options: Options,
    *,
    peak_lr: float,
) -> None:
    """Compose, train, average, save weights (float16), curves and a result file."""
    options.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    network.to(options.device)
    feed = Feed(source, source.fields, workers=options.workers)
    try:
        pool = Pool(feed, options.pool, options.device, options.seed)
        pool.fill(min(options.pool, 8 * options.batch))

        def draw() -> dict[str, Tensor]:
            with torch.autocast(options.device.type, dtype=torch.bfloat16):
                return losses(network, pool.batch(options.batch))

        averaged, history = train(
            network,
            draw,
            Schedule(minutes=options.minutes, peak_lr=peak_lr, max_steps=options.max_steps),
            title=spec.name,
            between=pool.refresh,
        )
    finally:
        feed.close()
    _save(averaged, spec, history, pool.received, options)


def _save(
    network: nn.Module, spec: ModelSpec, history: History, composed: int, options: Options
) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    save_model(options.out / f"{spec.name}.safetensors", state, spec)
    plot(history, options.out / f"{spec.name}-loss.png", spec.name)
    steps = history.steps[-1]
    rows = [
        Row(spec.name, "steps", "steps", steps),
        Row(spec.name, "pictures composed", "images", composed),
        Row(spec.name, "pictures seen", "images", steps * options.batch),
        Row(spec.name, "training time", "s", history.seconds[-1]),
        Row(spec.name, "peak GPU memory", "bytes", _peak_memory(options.device)),
    ]
    curves = {"seconds": history.seconds, "steps": history.steps, "losses": history.losses}
    write_report(
        options.out / f"{spec.name}-training.json", "train-demo", rows, seed=options.seed, **curves
    )
    print(f"{spec.name}: {steps} steps, {composed} pictures composed -> {options.out}")


def _peak_memory(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated()) if device.type == "cuda" else 0.0
