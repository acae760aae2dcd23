"""The command `smserve`. Commands import what they need when they run, so `--help` is quick."""

import os
import signal
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service.cli import (
    configuration,
    convert,
    evaluate,
    health,
    models,
    predict,
    ray_serve,
    reload,
    serve,
)
from service.cli.console import exit_status, say_error


class _Group(TyperGroup):
    """Turns our errors into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            # an answer already; or nobody reads on, which the framework ends in silence
            raise
        except (ValueError, OSError, RuntimeError) as exc:
            if ctx.params.get("debug"):
                raise
            say_error(str(exc) or type(exc).__name__)
            raise typer.Exit(exit_status(exc)) from exc


app = typer.Typer(
    cls=_Group,
    help="Serve Spatial-Mamba vision models: classification, detection, segmentation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("ray")(ray_serve.ray)
app.command("predict")(predict.predict)
app.command("convert")(convert.convert)
app.command("evaluate")(evaluate.evaluate)
app.command("reload")(reload.reload)
app.command("health")(health.health)
app.command("models")(models.models)
app.command("config")(configuration.config)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"smserve {version('spatial-mamba-serve')}")
    except PackageNotFoundError:
        typer.echo("smserve, not installed as a distribution")
    raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Serve Spatial-Mamba vision models: classification, detection, segmentation."""


def main() -> None:
    """Entry point of the console script."""
    # the first process of a container would not hear of it otherwise: for that one the system has
    # no default action. A service that listens has a better one, see `service.start.run`
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    app(prog_name="smserve")
