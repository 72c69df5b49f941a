"""The command table: what each command is, and how it is carried out.

What a command is (arity, flags, where its keys stand) is data: ``commands.json``, written by
``scripts/generate_commands.py`` from the COMMAND of real servers. How it is carried out follows
from that by rule; the commands that no rule tells apart are listed in ``PLANS``, and in ``REASONS``
those that are refused. ``docs/commands.md`` is the same for people.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

MAX_COMMANDS: Final = 1024  # the data plane has room for no more
MOST_ARGUMENTS: Final = 0x7FFF  # and no larger positions


class Plan(IntEnum):
    """How a command is carried out; the numbers are also the data plane's."""

    FORWARD = 0  # whole, to the server of its keys' slot
    SPLIT = 1  # in parts, one for each slot of its keys
    LOCAL = 2  # answered by proxy.answers, at once or later
    ANY = 3  # whole, to any server
    REFUSE = 4  # answered with an error
    PIN = 5  # as FORWARD, on a connection that the session has to itself: it may block
    FANOUT = 6  # sent to several servers by proxy.answers, which merges their replies
    TRANSACTION = 7  # by the data plane, which keeps the session's transaction


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
    keyword: str  # keys are the first half of what follows this word, "STREAMS"; "": none
    start: int  # where the search for the keyword begins: an earlier argument may be the same word
    plan: Plan
    container: bool  # its subcommands are commands of their own
    queueable: bool  # may be part of a transaction
    in_subscription: bool  # allowed to a RESP2 client that has subscriptions
    without_auth: bool  # allowed before authentication
    may_replicate: bool  # held back by CLIENT PAUSE WRITE
    categories: tuple[str, ...]  # of access control lists, without @
    reason: str  # why it is refused: "it is for replicas"; or ""


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


def _names(text: str) -> list[str]:
    """Names of commands, where "client|id|info" is two subcommands of one container."""
    found = []
    for word in text.split():
        container, *subs = word.split("|")
        found += [f"{container}|{sub}" for sub in subs] or [container]
    return found


PLANS: Final[Mapping[str, Plan]] = {
    name: plan
    for plan, names in {
        Plan.SPLIT: "mget mset del unlink exists touch",
        Plan.LOCAL: """
            ping echo quit select time auth hello reset role readonly readwrite asking
            subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe publish spublish
            client|id|info|list|getname|setname|setinfo|kill|pause|unpause|reply|unblock
            client|no-evict|no-touch|getredir|trackinginfo|help
            config|get|set|resetstat|rewrite|help
            slowlog|get|len|reset|help
            latency|latest|history|reset|graph|doctor|histogram|help
            acl|whoami
            cluster|slots|shards|nodes|info|keyslot|myid|myshardid|countkeysinslot|getkeysinslot
            cluster|replicas|slaves|links|count-failure-reports|help
            """,
        Plan.ANY: "command lolwut acl|cat|genpass module|list script|show",
        Plan.FANOUT: """
            dbsize keys flushall flushdb randomkey scan wait waitaof lastsave info memory|purge
            script|load|exists|flush|kill
            function|load|delete|flush|kill|list|stats|dump|restore
            pubsub|channels|numsub|numpat|shardchannels|shardnumsub
            """,
        Plan.TRANSACTION: "multi exec discard watch unwatch",
    }.items()
    for name in _names(names)
}
"""The plans that no rule finds."""

REASONS: Final[Mapping[str, str]] = {
    name: reason
    for names, reason in (
        ("monitor", "it would show the commands of a single server"),
        ("debug pfdebug pfselftest", "it is for tests of a single server"),
        ("shutdown", "it would end a server of the cluster"),
        ("save bgsave bgrewriteaof", "it has a single server write its data to disk"),
        ("replicaof slaveof failover", "it changes which servers of the cluster are replicas"),
        ("sync psync replconf", "it is for replicas"),
        ("migrate", "it would move keys to where the cluster does not look for them"),
        ("restore-asking", "it is for servers among themselves"),
        ("swapdb", "it needs two databases, and a cluster has one"),
        ("module|load|loadex|unload", "it changes the modules of a single server"),
        ("memory|doctor|stats|malloc-stats", "it tells of the memory of a single server"),
        ("script|debug", "it holds a dialogue with a single server"),
        ("commandlog|get|len|reset", "the proxy keeps a log of slow commands only, which SLOWLOG shows"),
        (
            "acl|deluser|dryrun|getuser|list|load|log|save|setuser|users",
            "users are set in the proxy's configuration",
        ),
        (
            "client|tracking|caching",
            "servers tell of changed keys by connection, and those are shared by clients",
        ),
        ("client|capa", "it lets servers send clients elsewhere, past the proxy"),
        ("client|import-source", "it is for tools that fill a single server"),
        ("cluster|slot-stats", "it tells of the slots of a single server"),
        (
            "cluster|addslots|addslotsrange|bumpepoch|delslots|delslotsrange|failover|flushslots|forget"
            " cluster|meet|replicate|reset|saveconfig|set-config-epoch|setslot",
            "it changes the cluster",
        ),
    )
    for name in _names(names)
}
"""Why commands are refused that no rule refuses, or for a reason that the rule does not know."""

# Flags and ACL categories of commands that are refused unless they are listed above.
REFUSED_MARKS: Final[Mapping[str, str]] = {
    "admin": "it administers a single server",
    "pubsub": "it belongs to publish and subscribe",
    "transaction": "it belongs to transactions",
}
NO_KEY: Final = "it has no key that says which server is meant"
HIDDEN_KEYS: Final = "the positions of its keys cannot be told beforehand"
UNKNOWN: Final = "it is not known"

QUEUEABLE_PLANS: Final = (Plan.FORWARD, Plan.SPLIT, Plan.ANY, Plan.PIN)
QUEUEABLE: Final = frozenset(_names("ping echo select time publish spublish unwatch"))
IN_SUBSCRIPTION: Final = frozenset(
    _names("subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe ping quit reset")
)
WITHOUT_AUTH: Final = frozenset(_names("auth hello quit reset"))
MAY_REPLICATE: Final = frozenset(_names("eval evalsha fcall pfcount publish spublish"))
"""Beside those with the flag "write"; what a server's COMMAND does not show."""

KEPT_SPEC_FLAGS: Final = ("RO", "RW", "OW", "RM", "not_key", "incomplete", "variable_flags")


class CommandTable:
    """Commands by id and by name."""

    def __init__(self, commands: tuple[Command, ...]) -> None:
        self.commands: Final = commands
        self.by_name: Final = {command.name: command for command in commands if command.name}

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """A table of these commands, where a container's row comes with its subcommands' rows."""
        nothing = Row("", 0, (), (), (0, 0, 0), ())
        return cls((_command(0, nothing, Plan.REFUSE, UNKNOWN),))._with(rows)

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

    @property
    def categories(self) -> frozenset[str]:
        """Of access control lists, without @."""
        return frozenset(category for command in self.commands for category in command.categories)

    def denied(self, words: Iterable[str]) -> bytes:
        """One byte for each id, 1 if the command is one of those that ``denied_commands`` names.

        A container's name stands for all of its subcommands, and @category for the commands in it, but for
        those that a client needs to authenticate and to leave.
        """
        names = {word for word in words if not word.startswith("@")}
        categories = {word[1:] for word in words if word.startswith("@")}
        return bytes(
            not command.without_auth
            and (
                command.name in names
                or command.name.partition("|")[0] in names
                or not categories.isdisjoint(command.categories)
            )
            for command in self.commands
        )

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
            only = row.name in parts and row.name not in PLANS  # a command by its subcommands only
            plan, reason = _container_plan(parts[row.name]) if only else _plan(row, parent)
            command = _command(len(self.commands) + len(added), row, plan, reason, row.name in parts)
            known[row.name] = command
            added.append(command)
        return type(self)(self.commands + tuple(added)) if added else self


def _command(number: int, row: Row, plan: Plan, reason: str, is_container: bool = False) -> Command:
    keys = _keys(row)
    return Command(
        id=number,
        name=row.name,
        arity=row.arity,
        readonly="readonly" in row.flags or plan is Plan.ANY,
        write="write" in row.flags,
        first=keys.first,
        last=keys.last,
        step=keys.step,
        keynum=keys.keynum,
        keyword=keys.keyword,
        start=keys.start,
        plan=plan,
        container=is_container,
        queueable=row.name in QUEUEABLE or (plan in QUEUEABLE_PLANS and "no_multi" not in row.flags),
        in_subscription=row.name in IN_SUBSCRIPTION,
        without_auth=row.name in WITHOUT_AUTH,
        may_replicate="write" in row.flags or row.name in MAY_REPLICATE,
        categories=row.acl,
        reason=reason,
    )


def _plan(row: Row, parent: Command | None) -> tuple[Plan, str]:
    """The plan of a command that is no container, and why if it is refused."""
    if row.name in PLANS:
        return PLANS[row.name], ""
    if row.name in REASONS:
        return Plan.REFUSE, REASONS[row.name]
    if row.name.endswith("|help") or (parent is not None and parent.plan is Plan.ANY):
        return Plan.ANY, ""
    for mark in (*row.flags, *row.acl):
        if mark in REFUSED_MARKS:
            return Plan.REFUSE, REFUSED_MARKS[mark]
    keys = _keys(row)
    if keys.first or keys.keynum or keys.keyword:
        return (Plan.PIN if "blocking" in row.flags else Plan.FORWARD), ""
    return Plan.REFUSE, HIDDEN_KEYS if row.specs or "movablekeys" in row.flags else NO_KEY


def _container_plan(parts: list[Row]) -> tuple[Plan, str]:
    """The plan of a container, by which the data plane refuses what is none of its subcommands.

    It is itself refused if all of its subcommands are, but for HELP.
    """
    plans = [_plan(part, None) for part in parts if not part.name.endswith("|help")]
    if plans and all(plan is Plan.REFUSE for plan, _ in plans):
        return plans[0]
    return Plan.FORWARD, ""


class Keys(NamedTuple):
    """Where the keys stand, as in ``Command``."""

    first: int = 0
    last: int = 0
    step: int = 0
    keynum: int = 0
    keyword: str = ""
    start: int = 0


def _keys(row: Row) -> Keys:
    """Where the keys stand that say which server is meant: some of them will do, servers check the rest."""
    keys = Keys(*row.keys)
    for spec in row.specs:
        begin, find, *_ = spec.split(" ")
        how, *where = begin.split(":")
        what, *numbers = find.split(":")
        if how == "index" and what == "keynum" and not keys.keynum:
            position, (count, first, step) = int(where[0]), map(int, numbers)
            if (count, first, step) == (0, 1, 1):
                keys = keys._replace(keynum=position)
            elif not keys.first:  # the keys are not all that follows the count: the first will do
                keys = keys._replace(first=position + first, last=position + first, step=1)
        elif (how, what, *numbers[:2]) == ("keyword", "range", "-1", "1") and keys == Keys():
            word, start = where[0], int(where[1])
            keys = Keys(keyword=word, start=start) if start > 0 else keys  # below: from the end
    return keys


# --- a server's COMMAND reply ----------------------------------------------------------------


def rows_of(reply: Sequence[Any]) -> list[Row]:
    """The commands and subcommands of a COMMAND reply as hiredis decodes it, RESP2's or RESP3's."""
    rows: list[Row] = []
    if not isinstance(reply, (list, tuple)):
        return rows
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
    row = Row(
        _text(name).lower(),
        int(arity),
        _texts(flags),
        tuple(category.removeprefix("@") for category in _texts(acl)),
        (int(first), int(last), int(step)),
        tuple(_spec(_fields(spec)) for spec in specs),
    )
    keys = _keys(row)
    if max(map(abs, (row.arity, keys.first, keys.last, keys.step, keys.keynum, keys.start))) > MOST_ARGUMENTS:
        raise ValueError("there can't be so many arguments")
    return row


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
SERVER: Final[str] = _DATA["servers"][0]  # the first of those it was generated from: "redis 7.0.15"
REDIS_VERSION: Final = SERVER.rpartition(" ")[2]
TABLE: Final = _load(_DATA)
