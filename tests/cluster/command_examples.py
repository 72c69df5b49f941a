"""The examples of commands in ``tests/data/command_examples.toml``."""

import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.commands import SERVER, TABLE, Command, Plan
from scripts.generate_command_docs import DESCRIBED, SERVERS

FILE: Final = Path(__file__).parents[1] / "data" / "command_examples.toml"
KNOWN: Final = {name for name, row in DESCRIBED.items() if SERVERS.index(SERVER) in row["servers"]}
"""The commands of ``SERVER``, which is what the tests run."""
OTHER_TYPES: Final = ((b"SET", b"k", b"v"), (b"RPUSH", b"k", b"v"))

Words = tuple[bytes, ...]


@dataclass(frozen=True)
class Example:
    """Commands sent one after the other; the last is what it is about."""

    line: str
    commands: tuple[Words, ...]
    compare: str = "same"  # with the plain server's replies: same, shape or different
    reason: str = ""  # why not the same

    @property
    def command(self) -> Command:
        """What it is about. Raises KeyError where the command table has no such thing."""
        found = command_of(self.commands[-1])
        if found is None:
            raise KeyError(self.line)
        return found

    def variants(self) -> Iterator["Example"]:
        """Its last command where the keys are missing, or of another type."""
        last = self.commands[-1]
        if self.compare == "same":
            for before in ((), *OTHER_TYPES) if b"k" in last else ((),):
                commands = (before, last) if before else (last,)
                yield Example(b"; ".join(map(b" ".join, commands)).decode("latin-1"), commands)


def command_of(words: Words) -> Command | None:
    """A request's entry in the command table; the container's where there is no such subcommand."""
    name = words[0].decode("latin-1")
    sub = words[1].decode("latin-1") if len(words) > 1 else ""
    return TABLE.lookup(f"{name}|{sub}") or TABLE.lookup(name)


def wrong_numbers_of_arguments() -> list[Words]:
    """Every command's name alone, containers' too; with an argument less than it needs, and one more.

    Of those that ``SERVER`` knows and that are carried out.
    """
    found = []
    for command in TABLE.commands:
        if command.name in KNOWN and command.plan is not Plan.REFUSE:
            name = tuple(command.name.upper().encode().split(b"|"))
            missing = abs(command.arity) - len(name)
            few = [name, (*name, *[b"k"] * (missing - 1))] if missing > 0 else []
            many = [(*name, *[b"k"] * (missing + 1))] if command.arity > 0 else []
            found += list(dict.fromkeys(few + many))
    return found


def parse(line: str) -> tuple[Words, ...]:
    """The commands of a line, ``;`` between them; in double quotes there may be ``\\n`` and ``\\xff``."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    lexer.commenters = ""
    commands: list[list[bytes]] = [[]]
    for word in lexer:
        if word == ";":
            commands.append([])
        else:
            commands[-1].append(word.encode("latin-1").decode("unicode_escape").encode("latin-1"))
    return tuple(map(tuple, commands))


def load() -> dict[str, list[Example]]:
    """The examples by group."""
    return {group: list(_examples(kinds)) for group, kinds in tomllib.loads(FILE.read_text("utf-8")).items()}


def _examples(kinds: dict[str, Any]) -> Iterator[Example]:
    for compare, blocks in kinds.items():
        for reason, lines in (blocks if isinstance(blocks, dict) else {"": blocks}).items():
            for line in lines.splitlines():
                yield Example(line, parse(line), compare, reason)
