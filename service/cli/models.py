"""`smserve models`: list the model files that would be served."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.console import EXIT_FAILURE, say_error, stdout

if TYPE_CHECKING:
    from rich.table import Table

    from model.config import ModelSpec


def models(
    folder: Annotated[
        Path | None, typer.Option("--models", help="Folder of .safetensors model files.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
) -> None:
    """List the models that `smserve serve` would offer, in the order of priority."""
    from model.checkpoint import CheckpointError, read_spec
    from service.catalog import model_files
    from service.settings import load_settings

    files = model_files(load_settings(models_dir=folder, config=config))
    table = _empty_table()
    all_readable = True
    for path in files:
        try:
            spec = read_spec(path)
        except CheckpointError as exc:
            say_error(str(exc))
            all_readable = False
        else:
            table.add_row(*_cells(path, spec))
    if table.row_count:
        stdout().print(table)
    if not all_readable:
        raise typer.Exit(EXIT_FAILURE)


def _empty_table() -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "task", "variant"):
        table.add_column(column, no_wrap=True)
    table.add_column("classes", justify="right")
    table.add_column("MB", justify="right")
    table.add_column("file", overflow="fold")
    return table


def _cells(path: Path, spec: "ModelSpec") -> tuple[str, ...]:
    from rich.markup import escape

    megabytes = f"{path.stat().st_size / 1e6:.1f}"
    name = escape(spec.name) + (" [dim](demo)[/]" if spec.demo else "")
    return name, spec.task, spec.variant, str(spec.num_classes), megabytes, escape(str(path))
