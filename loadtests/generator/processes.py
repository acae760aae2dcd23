"""CPU time, memory and open files of a server's processes, by title, from /proc."""

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PROC: Final = Path("/proc")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TITLE: Final = "smserve-"
# the service in one process has no title, only its command line
UNTITLED: Final = "smserve"


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process at one moment.

    Attributes:
        title: `smserve-engine[0]` and the like; `smserve` for a process without one.
        cpu_s: user and system time since its start.
        rss: resident bytes.
        own: of these, not shared with other processes or files.
        fds: open files and sockets.
    """

    pid: int
    title: str
    cpu_s: float
    rss: int
    own: int
    fds: int


def title_of(pid: int) -> str:
    """What a process calls itself.

    Raises:
        OSError: it is gone.
    """
    command = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    return command.strip() if command.startswith(_TITLE) else UNTITLED


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        try:
            threads = list((_PROC / str(parent) / "task").iterdir())
            children = [(thread / "children").read_text().split() for thread in threads]
        except OSError:
            continue
        found += [int(child) for some in children for child in some]
    return found


def sample_processes(pid: int) -> list[ProcessSample]:
    """A process and its descendants now; those that end meanwhile are left out."""
    samples = []
    for one in family(pid):
        try:
            samples.append(_sample(one))
        except (OSError, IndexError, ValueError):
            continue
    return samples


def _sample(pid: int) -> ProcessSample:
    folder = _PROC / str(pid)
    # the name in parentheses may hold blanks: the fields after it begin with the state
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    resident, shared = (int(pages) for pages in (folder / "statm").read_text().split()[1:3])
    return ProcessSample(
        pid=pid,
        title=title_of(pid),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        rss=resident * _PAGE,
        own=(resident - shared) * _PAGE,
        fds=len(os.listdir(folder / "fd")),
    )


def pids_by_title(pid: int) -> dict[str, int]:
    """Of a server's processes; of those without a title the first one."""
    found: dict[str, int] = {}
    for sample in sample_processes(pid):
        found.setdefault(sample.title, sample.pid)
    return found


def cpu_by_title(
    before: Iterable[ProcessSample], after: Iterable[ProcessSample]
) -> dict[str, float]:
    """CPU seconds between two samplings; of a process that came in between, all it used."""
    start = {sample.pid: sample.cpu_s for sample in before}
    used: dict[str, float] = {}
    for sample in after:
        seconds = sample.cpu_s - start.get(sample.pid, 0.0)
        used[sample.title] = used.get(sample.title, 0.0) + seconds
    return used


class ProcessWatch:
    """Samples a server's processes at a fixed interval, in a thread, while its block runs.

    Attributes:
        samples: (`time.monotonic()` seconds, processes) of every sampling.
    """

    def __init__(self, pid: int, interval_s: float = 0.5) -> None:
        self.samples: list[tuple[float, list[ProcessSample]]] = []
        self._pid, self._interval_s = pid, interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._take()

    def cpu_s(self) -> dict[str, float]:
        """Used from the first sampling to the last, by title."""
        return cpu_by_title(self.samples[0][1], self.samples[-1][1])

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._take()

    def _take(self) -> None:
        self.samples.append((time.monotonic(), sample_processes(self._pid)))
