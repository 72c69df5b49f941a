"""How much memory a process has."""

import os
from pathlib import Path

from bench import process

UNCOUNTED = "PROXY_ASAN" in os.environ
"""A sanitizer's own memory would be counted: then no memory is, and the rest of each test holds."""


def resident(pid: int) -> int:
    """Memory of a process, bytes."""
    return 0 if UNCOUNTED else process.resident(pid)


def peak(pid: int) -> int:
    """The most memory a process has had since ``forget_peak``, bytes."""
    if UNCOUNTED:
        return 0
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
