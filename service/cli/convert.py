"""`smserve convert`: published checkpoint -> model file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.config import TaskName
from service.cli.console import UsageError, stdout

if TYPE_CHECKING:
    from exporters.convert import ConversionSummary


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC.pth", help="Published checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="File to write.")],
    task: Annotated[
        TaskName | None, typer.Option(help="Expected task; found out if left out.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Expected size: tiny, small, base; found out if left out.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="File with the class names, one per line.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model, e.g. for ?model= in requests.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the moving average, model_ema.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.safetensors.")] = False,
) -> None:
    """Convert a published .pth checkpoint into a model file.

    Nothing in the checkpoint is ever executed: tensors are read, everything else is skipped, and
    a file that asks for more is refused. OUT.safetensors.sha256 is written beside the model, for
    sha256sum --check and for the server.
    """
    from exporters.convert import ConversionRequest
    from exporters.convert import convert as convert_checkpoint
    from service.model_hashes import write_sidecar

    _check_variant(variant)
    request = ConversionRequest(
        task=task,
        variant=variant,
        class_names=None if classes is None else _read_class_names(classes),
        name=name,
        ema=ema,
        overwrite=force,
    )
    summary = convert_checkpoint(source, target, request)
    _print_summary(summary, write_sidecar(target))


def _check_variant(variant: str | None) -> None:
    from model.config import VARIANTS

    if variant is not None and variant not in VARIANTS:
        raise UsageError(f"unknown variant {variant!r}, known: {', '.join(VARIANTS)}")


def _read_class_names(path: Path) -> list[str]:
    """Lines of the file; blank lines at the end do not count.

    Raises:
        UsageError: unreadable, empty, blank lines in between, or a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read the class names in {path}: {exc}") from exc
    names = [line.strip() for line in lines]
    if not names:
        raise UsageError(f"{path} names no class")
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or name in seen:
            found = f"{name!r} for the second time" if name else "a blank line"
            raise UsageError(f"{path}, line {number}: {found}, expected one new name a line")
        seen.add(name)
    return names


def _print_summary(summary: "ConversionSummary", sha256: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    spec = summary.spec
    dropped = f"{len(summary.dropped)} tensors of the auxiliary head" if summary.dropped else "none"
    weights = "model_ema, the moving average" if summary.ema else "as trained"
    rows = {
        "model": spec.name,
        "task": spec.task,
        "variant": spec.variant,
        "classes": f"{spec.num_classes}, from {summary.class_source}",
        "weights": f"{summary.num_tensors} tensors, {weights}",
        "parameters": f"{summary.num_parameters:,}",
        "left out": dropped,
        "source SHA-256": spec.source_sha256 or "",
        "written": f"{summary.target} ({summary.num_bytes / 1e6:.1f} MB), .sha256 beside it",
        "SHA-256": sha256,
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows.items():
        table.add_row(label, escape(value))
    stdout().print(table)
