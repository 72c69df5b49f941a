"""What the machine, or the control group that this process is in, lets us have."""

import os
from pathlib import Path

CGROUP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes: the machine's memory, or the least limit of our control group and those it is in.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max)
    """
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    """Of control groups version 2; none where there are none."""
    try:
        own = next(line[3:] for line in CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = CGROUP_ROOT / own.lstrip("/")
    limits = []
    for one in (group, *group.parents):
        try:
            limits.append(int((one / "memory.max").read_text()))
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return limits
