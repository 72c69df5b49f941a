"""The command table: what each command is, and how it is carried out.

What a command is (arity, flags, where its keys stand) is data: ``commands.json``, written by
``scripts/generate_commands.py`` from a real server's COMMAND. How it is carried out follows from
that by rule; the few commands that no rule tells apart are listed in ``EXCEPTIONS``.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

MAX_COMMANDS: Final = 1024  # the data plane has room for no more


class Plan(IntEnum):
    """How a command is carried out; the numbers are also the data plane's."""

    FORWARD = 0  # whole, to the server of its keys' slot
    SPLIT = 1  # in parts, one for each slot of its keys
    LOCAL = 2  # answered by proxy.answers
    ANY = 3  # whole, to any server
    REFUSE = 4  # answered with an error


@dataclass(frozen=True, slots=True)
class Command:
    """A command or subcommand. Positions count arguments from the command's name, which is 0."""

    id: int  # its index in the table; 0 is the command of requests that name none
    name: str  # lower case; a subcommand's is "container|subcommand"
    arity: int  # arguments with the name; -n: n or more
    readonly: bool  # changes nothing, so it may be sent twice
    write: bool
    first: int  # the first key; 0: none at a fixed position
    last: int  # the last of those; negative: from the end, -1 is the last argument
    step: int  # from one key to the next
    keynum: int  # the argument that counts the keys behind it; 0: none
    plan: Plan
    container: bool  # its subcommands are commands of their own
    reason: str  # why it is refused, or ""


class Row(NamedTuple):
    """One command as a server describes it: a line of ``commands.json``.

    ``specs`` holds key specifications as "BEGIN FIND FLAG…", for example "index:1 range:0:1:0 RO".
    The parts are Redis's: index:POS, keyword:WORD:START or unknown; range:LAST:STEP:LIMIT,
    keynum:INDEX:FIRST:STEP or unknown; RO, RW, OW, RM, not_key, incomplete, variable_flags.
    """

    name: str
    arity: int
    flags: tuple[str, ...]
    acl: tuple[str, ...]  # ACL categories, without @
    keys: tuple[int, int, int]  # first, last, step
    specs: tuple[str, ...]


LOCAL: Final = (
    "auth",
    "echo",
    "hello",
    "info",
    "ping",
    "quit",
    "select",
    "time",
    "client",
    "client|getname",
    "client|help",
    "client|id",
    "client|info",
    "client|no-evict",
    "client|no-touch",
    "client|setinfo",
    "client|setname",
    "config",
    "config|get",
    "config|help",
    "config|resetstat",
    "config|rewrite",
    "config|set",
)

EXCEPTIONS: Final[Mapping[str, tuple[Plan, str]]] = {
    **dict.fromkeys(LOCAL, (Plan.LOCAL, "")),
    **dict.fromkeys(("mget", "mset", "del", "unlink", "exists", "touch"), (Plan.SPLIT, "")),
    "command": (Plan.ANY, ""),
    "migrate": (Plan.REFUSE, "would move keys to where the cluster does not look for them"),
    "restore-asking": (Plan.REFUSE, "is for servers among themselves"),
}

# Flags and ACL categories of commands that are not carried out, or not yet.
REFUSED_MARKS: Final[Mapping[str, str]] = {
    "admin": "administers a single server",
    "blocking": "may wait for data to come",
    "pubsub": "belongs to publish and subscribe",
    "scripting": "belongs to scripts and functions",
    "transaction": "belongs to transactions",
}
NO_KEY: Final = "has no key that says which server is meant"
HIDDEN_KEYS: Final = "has keys whose positions cannot be told beforehand"
NOT_HERE: Final = "is a part of a command that is answered here, but is not"
UNKNOWN: Final = "is not known"

KEPT_SPEC_FLAGS: Final = ("RO", "RW", "OW", "RM", "not_key", "incomplete", "variable_flags")


class CommandTable:
    """Commands by id and by name."""

    def __init__(self, commands: tuple[Command, ...]) -> None:
        self.commands: Final = commands
        self.by_name: Final = {command.name: command for command in commands if command.name}

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """A table of these commands, where a container's row comes with its subcommands' rows."""
        nothing = Command(0, "", 0, False, False, 0, 0, 0, 0, Plan.REFUSE, False, UNKNOWN)
        return cls((nothing,))._with(rows)

    def lookup(self, name: str | bytes) -> Command | None:
        """The command of that name in any case; a subcommand's is "container|subcommand"."""
        name = name.lower()
        return self.by_name.get(name if isinstance(name, str) else name.decode("latin-1"))

    def extended(self, reply: Sequence[Any]) -> Self:
        """This table with what a server's COMMAND reply, as hiredis decodes it, knows beyond it.

        Commands already in the table do not change, and none loses its id. Entries that make no
        sense, and commands past ``MAX_COMMANDS``, are left out.
        """
        return self._with(rows_of(reply))

    def _with(self, rows: Iterable[Row]) -> Self:
        new = {row.name: row for row in sorted(rows) if row.name not in self.by_name}
        parts: dict[str, list[Row]] = {}
        for row in new.values():
            container, _, sub = row.name.partition("|")
            if sub:
                parts.setdefault(container, []).append(row)
        added: list[Command] = []
        known = dict(self.by_name)
        for row in new.values():
            if len(self.commands) + len(added) == MAX_COMMANDS:
                break
            container, _, sub = row.name.partition("|")
            parent = known.get(container) if sub else None
            if sub and parent is None:
                continue
            command = _command(len(self.commands) + len(added), row, parts.get(row.name, []), parent)
            known[row.name] = command
            added.append(command)
        return type(self)(self.commands + tuple(added)) if added else self


def _command(number: int, row: Row, parts: list[Row], parent: Command | None) -> Command:
    if row.name in EXCEPTIONS:
        plan, reason = EXCEPTIONS[row.name]
    elif parts:
        reasons = [_derived(part)[1] for part in parts]
        plan, reason = (Plan.FORWARD, "") if "" in reasons else (Plan.REFUSE, reasons[0])
    elif parent is None or parent.plan is Plan.REFUSE:
        plan, reason = _derived(row)
    elif parent.plan is Plan.FORWARD:
        plan, reason = (Plan.ANY, "") if row.name.endswith("|help") else _derived(row)
    elif parent.plan is Plan.LOCAL:
        plan, reason = Plan.REFUSE, NOT_HERE
    else:
        plan, reason = parent.plan, ""
    first, last, step = row.keys
    return Command(
        id=number,
        name=row.name,
        arity=row.arity,
        readonly="readonly" in row.flags or plan is Plan.ANY,
        write="write" in row.flags,
        first=first,
        last=last,
        step=step,
        keynum=_keynum(row) or 0,
        plan=plan,
        container=bool(parts) and plan is not Plan.ANY,
        reason=reason,
    )


def _derived(row: Row) -> tuple[Plan, str]:
    """The plan of a command without exception, and why if it is to be refused."""
    for mark in (*row.flags, *row.acl):
        if mark in REFUSED_MARKS:
            return Plan.REFUSE, REFUSED_MARKS[mark]
    keynum = _keynum(row)
    if keynum is None or (not row.keys[0] and not keynum and (row.specs or "movablekeys" in row.flags)):
        return Plan.REFUSE, HIDDEN_KEYS
    if not row.keys[0] and not keynum:
        return Plan.REFUSE, NO_KEY
    return Plan.FORWARD, ""


def _keynum(row: Row) -> int | None:
    """The position of the argument that counts the keys; 0: there is none; None: they lie oddly."""
    found = 0
    for spec in row.specs:
        begin, find, *_ = spec.split(" ")
        if not find.startswith("keynum:"):
            continue
        if found or not begin.startswith("index:") or find != "keynum:0:1:1":
            return None
        found = int(begin.removeprefix("index:"))
    return found


# --- a server's COMMAND reply ----------------------------------------------------------------


def rows_of(reply: Sequence[Any]) -> list[Row]:
    """The commands and subcommands of a COMMAND reply as hiredis decodes it, RESP2's or RESP3's."""
    rows = []
    for entry in reply:
        try:
            rows.append(_row(entry))
            rows.extend(rows_of(entry[9]) if len(entry) > 9 else ())
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            continue  # a server newer than the format, or nil
    return rows


def _row(entry: Sequence[Any]) -> Row:
    name, arity, flags, first, last, step = entry[:6]
    acl = entry[6] if len(entry) > 6 else ()
    specs = entry[8] if len(entry) > 8 else ()
    return Row(
        _text(name).lower(),
        int(arity),
        _texts(flags),
        tuple(category.removeprefix("@") for category in _texts(acl)),
        (int(first), int(last), int(step)),
        tuple(_spec(_fields(spec)) for spec in specs),
    )


def _spec(spec: Mapping[str, Any]) -> str:
    """A key specification of a COMMAND reply in the short form of ``Row``."""
    flags = _texts(spec["flags"])
    parts = []
    for search in ("begin_search", "find_keys"):
        fields = _fields(spec[search])
        values = [
            str(value) if isinstance(value, int) else _text(value)
            for value in _fields(fields["spec"]).values()
        ]
        parts.append(":".join((_text(fields["type"]), *values)))
    return " ".join((*parts, *(flag for flag in KEPT_SPEC_FLAGS if flag in flags)))


def _fields(reply: Any) -> dict[str, Any]:
    """A map, which RESP2 gives as a flat list."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(key): value for key, value in pairs}


def _texts(reply: Iterable[str | bytes]) -> tuple[str, ...]:
    return tuple(_text(item) for item in reply)


def _text(reply: str | bytes) -> str:
    return reply if isinstance(reply, str) else reply.decode()


# --- the table ---------------------------------------------------------------------------------


def _load(data: Mapping[str, Any]) -> CommandTable:
    return CommandTable.of(
        Row(
            row["name"],
            row["arity"],
            tuple(row["flags"]),
            tuple(row["acl"]),
            (row["keys"][0], row["keys"][1], row["keys"][2]),
            tuple(row["specs"]),
        )
        for row in data["commands"]
    )


_DATA: Final = json.loads(Path(__file__).with_name("commands.json").read_bytes())
SERVER: Final[str] = _DATA["server"]  # what the table was generated from: "redis 7.0.15"
TABLE: Final = _load(_DATA)
