"""`smserve health`: ask a running service how it is, where no other program can (containers)."""

import http.client
import json
from pathlib import Path
from typing import Annotated, Final

import typer

from service.cli.console import stdout

# an address to listen on is not always one to call
_CALLED: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_TIMEOUT_S: Final = 4.0


def health(
    live: Annotated[
        bool, typer.Option("--live", help="Ask whether it works at all, ready or not.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Of the service; as its settings say.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Of the service; as its settings say.", min=1, max=65535)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
) -> None:
    """Ask the service of this machine whether it is ready.

    Exit status 0: it is. 1: it is not, with the reason, or nobody answers.
    """
    from service.settings import load_settings

    settings = load_settings(host=host, port=port, config=config)
    address = _CALLED.get(settings.host, settings.host)
    _ask(address, settings.port, "/livez" if live else "/readyz")
    stdout().print("live" if live else "ready")


def _ask(host: str, port: int, path: str) -> None:
    """Returns when the answer is 200.

    Raises:
        RuntimeError: nobody answers, or the answer is another one; with the reason.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        content = response.read()
    except OSError as exc:
        raise RuntimeError(f"no answer from {host}:{port}: {exc.strerror or exc}") from exc
    except http.client.HTTPException as exc:
        raise RuntimeError(f"no answer of smserve from {host}:{port}: {exc!r}") from exc
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{path} answers {response.status}: {_detail(content)}")


def _detail(content: bytes) -> str:
    try:
        return str(json.loads(content)["detail"])
    except (ValueError, TypeError, KeyError):
        return "no reason given"
