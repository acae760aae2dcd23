"""Start the service, in one process or in several."""

from importlib.util import find_spec
from typing import Final

from service.processes.layout import plan_layout
from service.processes.supervisor import run_supervisor
from service.server import run_alone
from service.settings import Settings, SettingsError

_FAST_PARTS: Final = ("uvloop", "httptools")


def run(settings: Settings) -> int:
    """Serve until a signal or a failure.

    SIGTERM: not ready, still accepting for the grace time; then new work is refused and accepted
    work is finished; exit 0. SIGINT: the same without the grace time. Either one again: at once.

    Returns:
        the process's exit status; 0 after a drain, 1 when an engine or the socket failed.

    Raises:
        SettingsError: a part that the service needs is not installed.
    """
    missing = [name for name in _FAST_PARTS if find_spec(name) is None]
    if missing:
        raise SettingsError(f"{', '.join(missing)} not installed; install uvicorn[standard]")
    layout = plan_layout(settings)
    return run_supervisor(settings, layout) if layout.fronts else run_alone(settings)
