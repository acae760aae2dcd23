"""`smserve ray`: the service on a Ray cluster."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from service.cli.choices import BackendName, Device, LogLevel


class Proxy(StrEnum):
    """What stands between clients and replicas."""

    HAPROXY = "haproxy"
    RAY = "ray"


def ray(
    address: Annotated[
        str | None,
        typer.Option(help="Of a running cluster, or auto: update it and return. Else start one."),
    ] = None,
    replicas: Annotated[
        str | None, typer.Option(help="How many: 4, or 1:8 to follow the load. Default 1.")
    ] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs of one replica.", min=0)] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs of one replica.", min=0.01)] = None,
    surge: Annotated[
        int | None, typer.Option(help="Extra replicas of an update, percent.", min=0, max=100)
    ] = None,
    proxy: Annotated[Proxy, typer.Option(help="In front of the replicas.")] = Proxy.HAPROXY,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=1, max=65535)] = None,
    models: Annotated[
        Path | None, typer.Option(help="Folder of model files; every machine needs it.")
    ] = None,
    demo_models: Annotated[
        bool | None,
        typer.Option("--demo-models/--no-demo-models", help="Serve the models that ship, too."),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Where to compute.")] = None,
    backend: Annotated[BackendName | None, typer.Option(help="What computes.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Least important records.")] = None,
) -> None:
    """Serve on a Ray cluster, a replica per GPU; see deploy/ray/README.md.

    Settings come from the options, the environment and the YAML file of this machine, as with
    `smserve serve`, and travel to the replicas.
    """
    from service.logs import configure_logging
    from service.ray_serve.start import ClusterOptions, run
    from service.settings import SettingsError, load_settings

    if find_spec("ray") is None:
        raise SettingsError("ray is not installed; install spatial-mamba-serve[ray]")
    settings = load_settings(
        host=host,
        port=port,
        models_dir=None if models is None else models.resolve(),
        demo_models=demo_models,
        device=device,
        backend=backend,
        config=config,
        log=None if log_level is None else {"level": str(log_level)},
    )
    configure_logging(settings.log)
    cluster = ClusterOptions(address=address, has_haproxy=proxy is Proxy.HAPROXY)
    low, high = _replica_range(replicas)
    wanted = {
        "min_replicas": low,
        "max_replicas": high,
        "num_gpus": gpus,
        "num_cpus": cpus,
        "max_surge_percent": surge,
    }
    raise typer.Exit(run(settings, wanted, cluster))


def _replica_range(text: str | None) -> tuple[int | None, int | None]:
    """`4` or `1:8`.

    Raises:
        UsageError: neither.
    """
    from service.cli.console import UsageError

    if text is None:
        return None, None
    low, separator, high = text.partition(":")
    try:
        return int(low), int(high if separator else low)
    except ValueError as exc:
        raise UsageError(f"--replicas is {text!r}, expected a number or two, as in 1:8") from exc
