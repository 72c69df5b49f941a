"""What the servers have executed, by their append-only files.

A server writes every write to its file before it answers (appendfsync does not matter: servers are killed
here, not the machine). One that follows another writes what that one has executed. A write is recognized by
its value, and its execution by what the server has made of it when it executed it: the time when a register
expires, the id of a stream's entry. The same write with two of these has been executed twice.

Files are kept by hard links, since a server that becomes a replica begins new ones and removes the old.
Source: https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
"""

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import hiredis

from tests.chaos.history import number_in

OPTIONS = {"appendonly": "yes", "appendfsync": "no", "auto-aof-rewrite-percentage": "0"}
"""redis-server's, for its files to tell all."""
PERIOD = 0.02
"""Seconds between looks for new files."""


class Execution(NamedTuple):
    """A write in one server's file."""

    key: str
    number: int
    """Which of the key's writes; 0 for INCR, which does not say."""
    mark: str
    """What is particular to this execution; "" if nothing is."""


@dataclass
class Evidence:
    """What all files say together."""

    marks: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Of each write that was executed, by key and number."""
    counts: Counter[str] = field(default_factory=Counter)
    """How often INCR was executed on a key, by the file that has most of them."""
    disorder: list[str] = field(default_factory=list)
    """Writes of a key that a file has twice, or after a later one. (In two files one may be: a server that
    follows another anew begins where that one is.)"""

    def of(self, key: str, number: int) -> set[str]:
        """Of one write; empty if it was not executed."""
        return self.marks.get((key, number), set())

    def add(self, server: str, files: Iterable[Iterable[Execution]]) -> None:
        """What one server has executed, by its files, each in its order."""
        for each in files:
            counts = Counter[str]()
            last: dict[str, int] = {}
            for key, number, mark in each:
                if not number:
                    counts[key] += 1
                    continue
                self.marks[key, number].add(mark)
                if number <= last.get(key, 0):
                    self.disorder.append(f"{server} executed write {number} of {key} after {last[key]}")
                last[key] = number
            self.counts |= counts


def executions(file: Path) -> Iterator[Execution]:
    """What a file's commands have written."""
    for command in commands(file):
        yield from written(command)


def written(words: Sequence[bytes]) -> Iterator[Execution]:
    """What one command of a file has written."""
    name = words[0].upper()
    if name == b"SET":
        yield _execution(words[1], words[2], words[4] if words[3:4] == [b"PXAT"] else b"")
    elif name == b"MSET":
        for key, value in zip(words[1::2], words[2::2], strict=True):
            yield _execution(key, value)
    elif name == b"XADD":
        yield _execution(words[1], words[4], words[2])
    elif name == b"INCR":
        yield Execution(words[1].decode(), 0, "")


def _execution(key: bytes, value: bytes, mark: bytes = b"") -> Execution:
    return Execution(key.decode(), number_in(key.decode(), value), mark.decode())


def commands(file: Path) -> Iterator[list[bytes]]:
    """Of an append-only file; what a server that was killed has left unfinished is left out."""
    reader = hiredis.Reader()
    with file.open("rb") as opened:
        while data := opened.read(1 << 20):
            reader.feed(data)
            while (command := reader.gets()) is not False:
                yield command


class Keeper(threading.Thread):
    """Keeps all append-only files that there are while it runs."""

    def __init__(self, directories: dict[str, Path]) -> None:
        """``directories`` are the servers', by name."""
        super().__init__(daemon=True)
        self._directories = directories
        self._ended = threading.Event()
        self._kept: dict[str, dict[int, Path]] = {name: {} for name in directories}

    def run(self) -> None:
        while not self._ended.wait(PERIOD):
            self._look()

    def _look(self) -> None:
        for name, directory in self._directories.items():
            kept = self._kept[name]
            try:
                found = [entry for entry in os.scandir(directory / "appendonlydir") if "incr" in entry.name]
            except FileNotFoundError:
                continue
            for entry in sorted(found, key=lambda entry: entry.name):
                if entry.inode() not in kept:
                    self._keep(entry, directory / "kept", kept)

    def _keep(self, entry: os.DirEntry[str], where: Path, kept: dict[int, Path]) -> None:
        where.mkdir(exist_ok=True)
        link = where / f"{len(kept):06}"
        try:
            link.hardlink_to(entry.path)
        except FileNotFoundError:  # renamed, or gone
            return
        kept[link.stat().st_ino] = link

    def evidence(self) -> Evidence:
        """Of all that has been kept. Ends the thread."""
        self._ended.set()
        self.join()
        self._look()
        made = Evidence()
        for name, kept in self._kept.items():
            made.add(name, map(executions, kept.values()))
        return made

    def __enter__(self) -> "Keeper":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
