"""What is left out of other people's suites, and why."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Denied(NamedTuple):
    """One entry: what it is about, and the reason."""

    what: str
    reason: str


def denied(path: Path) -> list[Denied]:
    """The entries of a list: one a line, a tab before the reason. Lines that begin with # are headings.

    Raises ValueError for a line without a reason and for one that is there twice.
    """
    entries = list(_entries(path))
    if twice := {one.what for one in entries if sum(other.what == one.what for other in entries) > 1}:
        raise ValueError(f"{path}: twice: {', '.join(sorted(twice))}")
    return entries


def _entries(path: Path) -> Iterator[Denied]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line and not line.startswith("#"):
            what, _, reason = line.partition("\t")
            if not what or not reason.strip():
                raise ValueError(f"{path}:{number}: no reason: {line}")
            yield Denied(what, reason)
