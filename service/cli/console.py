"""What the command line says to people: standard error, in one line per event."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FAILURE = 1
EXIT_USAGE = 2


class UsageError(ValueError):
    """What was typed cannot be done; the exit status is 2."""


@cache
def _console(stream: str) -> "Console":
    from rich.console import Console

    return Console(stderr=stream == "stderr", highlight=False)


def stderr() -> "Console":
    """For progress, problems and summaries."""
    return _console("stderr")


def stdout() -> "Console":
    """For what was asked for."""
    return _console("stdout")


def say_error(message: str) -> None:
    """Print a problem, a line as it is.

    Names of files in it are never read as markup, and what cannot be printed, such as escape
    sequences, is shown by its number.
    """
    from rich.text import Text

    printable = "".join(
        char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in message
    )
    # one call: a progress bar would come between two
    line = Text.assemble(("error:", "bold red"), " ", printable)
    stderr().print(line, soft_wrap=True)


def exit_status(exc: Exception) -> int:
    """2 for what the user can mend by typing something else, 1 for everything else."""
    from service.settings import SettingsError

    return EXIT_USAGE if isinstance(exc, UsageError | SettingsError) else EXIT_FAILURE
