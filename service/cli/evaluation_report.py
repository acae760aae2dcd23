"""What `smserve evaluate` shows: a bar while it runs, then a table, and the same as JSON."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from service.cli.console import say_error, stderr, stdout

if TYPE_CHECKING:
    from rich.table import Table

    from model.evaluation.journal import Settings
    from model.evaluation.published import Published
    from model.evaluation.run import Evaluation, Failure
    from service.backends.base import Backend
    from service.cli.evaluate_options import EvaluateOptions

_MOST_NAMED = 20


@contextmanager
def progress_bar(evaluation: "Evaluation[Any]") -> Iterator[Callable[[], None]]:
    """A bar on standard error with images/s and the figure so far; call for every picture."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = stderr()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[figure]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    total = len(evaluation.dataset.samples)
    with bar:
        row = bar.add_task(
            "images", total=total, completed=evaluation.num_before, rate="", figure=""
        )

        def advance() -> None:
            bar.advance(row)
            if bar.disable:
                return
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f} images/s" if speed else ""
            bar.update(row, rate=rate, figure=evaluation.headline())

        yield advance


def show_failures(failures: "Sequence[Failure]") -> None:
    """Name the pictures that could not be answered, and say what can be done."""
    for failure in failures[:_MOST_NAMED]:
        say_error(f"{failure.name}: {failure.reason}")
    hidden = len(failures) - _MOST_NAMED
    if hidden > 0:
        say_error(f"and {hidden} more")
    unreadable = sum(not failure.is_readable for failure in failures)
    if unreadable:
        say_error(f"could not read {unreadable} pictures; --skip-unreadable measures without")
    if len(failures) > unreadable:
        say_error(f"could not measure {len(failures) - unreadable} pictures")


def report(
    options: "EvaluateOptions",
    backend: "Backend",
    evaluation: "Evaluation[Any]",
    settings: "Settings",
    seconds: float,
) -> None:
    """Print the table; write the JSON file if one is wanted."""
    from model.evaluation.published import published_figures, why_not_comparable

    metrics = evaluation.metrics()
    dataset = evaluation.dataset
    reason = why_not_comparable(backend.spec, num_pictures=evaluation.num_done, total=dataset.total)
    published = () if reason else published_figures(backend.spec, multi_scale=options.multi_scale)
    _print(backend, evaluation, metrics, published, reason)
    if options.json is None:
        return
    result = {
        **_subject(backend, evaluation),
        "settings": dict(settings),
        "metrics": {k: None if math.isnan(v) else v for k, v in metrics.items()},
        "published": {row.label: dict(row.values) for row in published} or None,
        "published_do_not_apply": reason,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "images_per_s": _rate(evaluation, seconds),
    }
    part = options.json.with_name(f"{options.json.name}.part")
    part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(options.json)


def _subject(backend: "Backend", evaluation: "Evaluation[Any]") -> dict[str, Any]:
    spec, dataset = backend.spec, evaluation.dataset
    return {
        "task": spec.task,
        "model": {
            "name": spec.name,
            "variant": spec.variant,
            "demo": spec.demo,
            "sha256": backend.sha256,
        },
        "data": {
            "layout": dataset.title,
            "fingerprint": dataset.fingerprint,
            "pictures": dataset.total,
            "measured": evaluation.num_done,
            "unreadable": [failure.name for failure in evaluation.failures],
        },
    }


def _rate(evaluation: "Evaluation[Any]", seconds: float) -> float | None:
    """Of this run alone; None where an earlier run has answered everything."""
    return evaluation.num_pending / seconds if evaluation.num_pending else None


def _print(
    backend: "Backend",
    evaluation: "Evaluation[Any]",
    metrics: Mapping[str, float],
    published: "Sequence[Published]",
    reason: str | None,
) -> None:
    from rich.markup import escape

    dataset = evaluation.dataset
    stdout().print(
        f"{escape(backend.spec.name)}: {evaluation.num_done:,} of {dataset.total:,} pictures, "
        f"{dataset.title}, in percent"
    )
    stdout().print(_table(metrics, published))
    if reason:
        stdout().print(f"Published figures do not apply: {escape(reason)}.", soft_wrap=True)


def _table(metrics: Mapping[str, float], published: "Sequence[Published]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("measured", justify="right")
    for row in published:
        table.add_column(f"published, {row.label}", justify="right")
        table.add_column("difference", justify="right")
    for name, value in metrics.items():
        cells = [name, "not defined" if math.isnan(value) else f"{100 * value:.2f}"]
        for row in published:
            cells += _compared(row.values.get(name), 100 * value)
        table.add_row(*cells)
    return table


def _compared(published: float | None, measured: float) -> tuple[str, str]:
    if published is None:
        return "unknown", ""
    return f"{published:.1f}", f"{measured - published:+.2f}"
