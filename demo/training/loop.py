"""The training loop shared by the three tasks: a time budget, AdamW, cosine schedule, EMA."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how strongly to train.

    Attributes:
        minutes: wall-clock budget; the learning rate follows the share of it that has passed.
        peak_lr: of AdamW, reached after the warm-up.
        warmup: share of the budget.
        ema_horizon: share of the steps so far over which weights are averaged.
        max_steps: stop earlier, for tests; None: by time alone.
    """

    minutes: float
    peak_lr: float
    warmup: float = 0.03
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_horizon: float = 0.03
    max_steps: int | None = None


@dataclass
class History:
    """Means of the losses over intervals of a few seconds."""

    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seconds: float, step: int, means: Mapping[str, float]) -> None:
        self.seconds.append(round(seconds, 1))
        self.steps.append(step)
        for name, value in means.items():
            self.losses.setdefault(name, []).append(round(value, 5))


class Ema:
    """Exponential moving average of a network, buffers included."""

    def __init__(self, network: nn.Module, horizon: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._horizon = horizon

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(0.9998, 1 - 1 / (1 + self._horizon * step))
        mine = list(self.network.state_dict().values())
        theirs = list(network.state_dict().values())
        floats = [i for i, value in enumerate(mine) if value.is_floating_point()]
        torch._foreach_lerp_(
            [mine[i] for i in floats], [theirs[i].detach() for i in floats], 1 - decay
        )
        for i, value in enumerate(mine):
            if not value.is_floating_point():
                value.copy_(theirs[i])


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices and kernels decay; norms, biases and state space parameters do not."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        plain = parameter.ndim < 2 or name.endswith(("A_log", ".D", "dt_bias"))
        (free if plain else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def train(
    network: nn.Module,
    losses: Callable[[], dict[str, Tensor]],
    schedule: Schedule,
    *,
    title: str,
    between: Callable[[], None] = lambda: None,
) -> tuple[nn.Module, History]:
    """Train until the budget is spent.

    Args:
        network: on its device; trained in place.
        losses: draws a batch and returns named losses, which are added up.
        between: called before every step, for example to take in fresh samples.

    Returns:
        the averaged network in evaluation mode, and the loss curves.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(network, schedule.weight_decay), lr=schedule.peak_lr, betas=(0.9, 0.98)
    )
    ema = Ema(network, schedule.ema_horizon)
    history = History()
    sums: dict[str, Tensor] = {}
    start = shown = time.monotonic()
    step = shown_step = 0
    with _progress() as progress:
        bar = progress.add_task(title, total=1.0, note="")
        while True:
            elapsed = (time.monotonic() - start) / (60 * schedule.minutes)
            if schedule.max_steps is not None:
                elapsed = max(elapsed, step / schedule.max_steps)
            if elapsed >= 1:
                break
            between()
            _set_rate(optimizer, schedule, elapsed)
            for name, value in _step(network, optimizer, losses, schedule.clip_norm).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            step += 1
            ema.update(network, step)
            now = time.monotonic()
            if now - shown > 4 or step in (1, 10):
                means = {k: float(v) / (step - shown_step) for k, v in sums.items()}
                _check_finite(means)
                history.add(now - start, step, means)
                note = " ".join(f"{k} {v:.3f}" for k, v in means.items())
                rate = (step - shown_step) / (now - shown)
                progress.update(bar, completed=elapsed, note=f"{step} steps {rate:.1f}/s {note}")
                shown, shown_step, sums = now, step, {}
    return ema.network, history


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Callable[[], dict[str, Tensor]],
    clip_norm: float,
) -> dict[str, Tensor]:
    network.train()
    parts = losses()
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(torch.stack(list(parts.values())).sum())
    nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    return {name: value.detach() for name, value in parts.items()}


def _set_rate(optimizer: torch.optim.Optimizer, schedule: Schedule, elapsed: float) -> None:
    if elapsed < schedule.warmup:
        factor = (elapsed + 1e-4) / (schedule.warmup + 1e-4)
    else:
        share = (elapsed - schedule.warmup) / (1 - schedule.warmup)
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
    for group in optimizer.param_groups:
        group["lr"] = schedule.peak_lr * factor


def _check_finite(means: Mapping[str, float]) -> None:
    if not all(math.isfinite(value) for value in means.values()):
        raise FloatingPointError(f"the loss is not finite: {dict(means)}")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        refresh_per_second=1,
    )


def plot(history: History, path: Path, title: str) -> None:
    """Loss curves over the minutes, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    minutes = [second / 60 for second in history.seconds]
    for name, values in history.losses.items():
        axes.plot(minutes, values, label=name)
    axes.set(title=title, xlabel="minutes", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
