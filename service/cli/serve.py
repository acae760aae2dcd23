"""`smserve serve`: run the HTTP service."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.choices import BackendName, Device, LogFormat, LogLevel


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65535)] = None,
    models: Annotated[
        Path | None, typer.Option(help="Folder of .safetensors model files to serve.")
    ] = None,
    demo_models: Annotated[
        bool | None,
        typer.Option("--demo-models/--no-demo-models", help="Serve the models that ship, too."),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Where to compute.")] = None,
    backend: Annotated[
        BackendName | None, typer.Option(help="What computes: auto is triton on a GPU, else torch.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    torch_threads: Annotated[
        int | None, typer.Option(help="CPU threads of the network.", min=1)
    ] = None,
    pool_size: Annotated[
        int | None, typer.Option(help="Threads that decode and post-process.", min=1)
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Most images in one run of the device.", min=1)
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Least important records.")] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Records for machines or for people.")
    ] = None,
) -> None:
    """Serve the models over HTTP.

    Every setting, these and many more, can also be given in the environment (SMSERVE_PORT=80,
    SMSERVE_BATCH__MAX_IMAGES=8) or in a YAML file; `smserve config` prints them all.
    """
    from service.settings import load_settings

    log = {"level": log_level, "format": log_format}
    settings = load_settings(
        host=host,
        port=port,
        models_dir=models,
        demo_models=demo_models,
        device=device,
        backend=backend,
        config=config,
        torch_threads=torch_threads,
        pool_size=pool_size,
        batch=None if max_batch is None else {"max_images": max_batch},
        log={name: str(value) for name, value in log.items() if value is not None} or None,
    )
    from service.start import run

    raise typer.Exit(run(settings))
