"""`smserve reload`: have a running service take new model files."""

import http.client
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from service.cli.console import UsageError, stderr, stdout

_SHOWN_DIGITS = 12


def reload(
    model: Annotated[
        str | None, typer.Option(help="Only this model; all of them if left out.")
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(help="Of the service; its setting admin.port if left out.", min=1, max=65535),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
) -> None:
    """Have a running service load the model files that are new or have changed.

    They are loaded and warmed up while the old ones go on answering. When something is wrong with
    one of them, the old ones stay, and the exit status is 1.
    """
    port = admin_port or _configured_port(config)
    with stderr().status("loading and warming up"):
        report = _post_reload(port, model)
    _print_report(report)


def _configured_port(config: Path | None) -> int:
    from service.settings import load_settings

    port = load_settings(config=config).admin.port
    if not port:
        raise UsageError(
            "where is the service? Give --admin-port, or the settings it was started with; "
            "a service listens for this when admin.port is set"
        )
    return port


def _post_reload(port: int, model: str | None) -> dict[str, Any]:
    """What the service reports.

    Raises:
        RuntimeError: nobody answers there, or the reload failed; with the reason.
    """
    import orjson

    # no timeout: large models take minutes, and a service that ends closes the connection
    connection = http.client.HTTPConnection("127.0.0.1", port)
    query = "" if model is None else f"?{urlencode({'model': model})}"
    try:
        connection.request("POST", f"/reload{query}")
        response = connection.getresponse()
        content = orjson.loads(response.read())
    except OSError as exc:
        raise RuntimeError(f"no service listens on 127.0.0.1:{port}: {exc.strerror}") from exc
    except (http.client.HTTPException, orjson.JSONDecodeError) as exc:
        raise RuntimeError(f"no answer of smserve from 127.0.0.1:{port}: {exc!r}") from exc
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{content.get('title')}: {content.get('detail')}")
    return dict(content)


def _print_report(report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not report["changes"]:
        stdout().print("nothing has changed")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "task", "change", "SHA-256", "before"):
        table.add_column(column, no_wrap=True)
    for change in report["changes"]:
        hashes = ((change[name] or "-")[:_SHOWN_DIGITS] for name in ("sha256", "previous_sha256"))
        table.add_row(escape(change["name"]), change["task"], change["change"], *hashes)
    stdout().print(table)
    stdout().print(f"in {report['seconds']:.1f} s")
