"""How many processor cores there are for this process, also inside a container."""

import math
import os
from pathlib import Path
from typing import Final

# as a container sees its own control group: version 2, or version 1
_GROUP: Final = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Those this process may run on, or the time of which it gets, if that is less."""
    cores = len(os.sched_getaffinity(0))
    granted = granted_cores()
    return cores if granted is None else min(cores, granted)


def granted_cores(group: Path = _GROUP) -> int | None:
    """The processor time that a container may use (`docker run --cpus`), in whole cores, upwards.

    Neither Python nor torch know of it: they would start a thread for each core of the machine,
    and all of them would stand still together once the time of a period is used up.

    Returns:
        None: as much as there is.
    """
    for quota, period in _read_limits(group):
        if quota > 0 and period > 0:
            return max(1, math.ceil(quota / period))
    return None


def _read_limits(group: Path) -> list[tuple[int, int]]:
    """(quota, period) in microseconds, of the versions that are there; quota -1: none."""
    limits = []
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            words = " ".join((group / file).read_text() for file in files).split()
            quota, period = (-1 if word == "max" else int(word) for word in words)
        except (OSError, ValueError):
            continue
        limits.append((quota, period))
    return limits
