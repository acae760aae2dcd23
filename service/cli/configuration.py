"""`smserve config`: print the effective settings."""

from pathlib import Path
from typing import Annotated

import typer


def config(
    file: Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")] = None,
) -> None:
    """Print the effective settings as YAML, secrets hidden.

    They come from the environment (SMSERVE_...), the YAML file and the defaults, in this order.
    The output is itself a configuration file, apart from the secrets.
    """
    import yaml

    from service.settings import effective_settings, load_settings

    settings = effective_settings(load_settings(config=file))
    # a configuration file cannot name another one
    settings.pop("config", None)
    typer.echo(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), nl=False)
