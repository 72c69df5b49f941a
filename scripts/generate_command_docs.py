"""Writes ``docs/commands.md``: what becomes of every command, from the command table.

    python -m scripts.generate_command_docs [--check] [--output FILE]

What is particular about a command is in ``command_notes.toml`` beside this file.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from proxy.commands import PLANS, TABLE, Command, Plan
from scripts.generate_commands import OUTPUT as COMMANDS

OUTPUT: Final = Path(__file__).parents[1] / "docs" / "commands.md"
DATA: Final[Mapping[str, Any]] = json.loads(COMMANDS.read_bytes())
SERVERS: Final[list[str]] = DATA["servers"]  # "redis 7.0.15"
DESCRIBED: Final[Mapping[str, Mapping[str, Any]]] = {row["name"]: row for row in DATA["commands"]}
NOTES: Final[Mapping[str, str]] = tomllib.loads(
    Path(__file__).with_name("command_notes.toml").read_text(encoding="utf-8")
)
"""Markdown by the command's name in the table."""

FATES: Final[Mapping[Plan, tuple[str, str]]] = {
    Plan.FORWARD: ("forwarded", "It goes as it is to the server of its keys, and so does the reply."),
    Plan.SPLIT: (
        "split and merged",
        "Its keys may lie in any slots: each slot's part goes to its server, and the replies are put together"
        " in the order of the keys. If a part fails, its error is the reply. It is not atomic over slots.",
    ),
    Plan.FANOUT: ("every server, merged", "All masters are asked, and their replies make one."),
    Plan.ANY: ("any server", "It goes as it is to one server, whichever."),
    Plan.LOCAL: ("answered here", "The proxy answers for itself."),
    Plan.PIN: (
        "on a connection of its own",
        "As forwarded, but nobody else uses the connection meanwhile, since it may block."
        " `pinned_connections` bounds how many there are.",
    ),
    Plan.TRANSACTION: (
        "in a transaction",
        "The proxy keeps the transaction. It is sent whole to the one server that has all of its keys.",
    ),
    Plan.REFUSE: (
        "refused",
        "The reply is an error that begins as the one for an unknown command, and says why.",
    ),
}

GROUPS: Final[Mapping[str, str]] = {
    "generic": "Keys of any type",
    "string": "Strings",
    "hash": "Hashes",
    "list": "Lists",
    "set": "Sets",
    "sorted-set": "Sorted sets",
    "stream": "Streams",
    "geo": "Geospatial indices",
    "bitmap": "Bitmaps",
    "hyperloglog": "HyperLogLog",
    "scripting": "Scripts and functions",
    "transactions": "Transactions",
    "pubsub": "Publish and subscribe",
    "connection": "Connections",
    "server": "Servers",
    "cluster": "Cluster",
}
"""Headings by the group that servers give."""

ONE_SLOT: Final = "Its keys must share a slot, or it gets `CROSSSLOT`."

INTRODUCTION: Final = """\
<!-- Made by `python -m scripts.generate_command_docs`: change the command table or the notes, not this. -->

# Commands

What becomes of each command of {servers},
and in what it differs from the same command of one plain Redis. Where nothing is said, there is no
difference: the reply is the server's own, byte for byte, or what it would say, in RESP2 and RESP3.

*Since* is the first version that has a command; the name of a server is there if only that kind has it.
A server that is older than a command calls it unknown itself. *Fate* is one of these:

{fates}

**Keys in one slot.** A command that is forwarded needs all of its keys in one slot: the part of a key in
`{{…}}`, if it has one, decides about the slot, so `{{user:7}}:name` and `{{user:7}}:cart` share theirs.
Otherwise the reply is `CROSSSLOT Keys in request don't hash to the same slot`, as from any Redis Cluster.

**Commands that are not listed.** Modules (with Redis 8, vector sets are one) and newer servers have more. The
proxy asks the servers for theirs (`COMMAND`) and treats those that it does not know by what they say of
themselves: what has keys is forwarded, or gets a connection of its own if it may block; what administers a
server, belongs to publish and subscribe or to transactions, has no key to tell which server is meant, or has
its keys where only the server can find them, is refused. HELP goes to any server. No command of the table
changes by that.

**In transactions** are allowed: what is forwarded, split (with keys in one slot), on a connection of its own
(where it does not block) or for any server, and {queueable}.
"""


def is_documented(command: Command) -> bool:
    """A container alone is no command, its subcommands are; COMMAND is both."""
    return bool(command.name) and (not command.container or command.name in PLANS)


def has_several_keys(command: Command) -> bool:
    """Whether it may have more than one key."""
    specs: list[str] = DESCRIBED[command.name]["specs"]
    return len(specs) > 1 or any(" range:0:" not in spec for spec in specs)


def since(command: Command) -> str:
    """ "7.2.0", or "Valkey 8.1.0" if no other kind of server has it."""
    row = DESCRIBED[command.name]
    kinds = {SERVERS[index].partition(" ")[0] for index in row["servers"]}
    everyone = {server.partition(" ")[0] for server in SERVERS}
    return str(row["since"]) if kinds == everyone else f"{kinds.pop().capitalize()} {row['since']}"


def notes(command: Command) -> str:
    """Why it is refused; what it needs; what is particular."""
    found = []
    if command.reason:
        found.append(f"{command.reason[0].upper()}{command.reason[1:]}.")
    if command.plan in (Plan.FORWARD, Plan.PIN) and has_several_keys(command):
        found.append(ONE_SLOT)
    if command.name in NOTES:
        found.append(NOTES[command.name])
    return " ".join(found)


def usage(name: str) -> str:
    """As people write it: "CLIENT NO-EVICT"."""
    return name.upper().replace("|", " ")


def table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def generate() -> str:
    """The text of the file."""
    commands = sorted(
        (command for command in TABLE.commands if is_documented(command)), key=lambda c: usage(c.name)
    )
    parts = [
        INTRODUCTION.format(
            servers=_listed([server.capitalize() for server in SERVERS]),
            fates=table([("Fate", "Meaning"), *FATES.values()]),
            queueable=_listed([usage(c.name) for c in commands if c.queueable and c.plan is Plan.LOCAL]),
        ).rstrip("\n")
    ]
    for group, heading in GROUPS.items():
        rows = [
            (f"`{usage(c.name)}`", since(c), FATES[c.plan][0], notes(c))
            for c in commands
            if DESCRIBED[c.name]["group"] == group
        ]
        parts.append(f"## {heading}\n\n{table([('Command', 'Since', 'Fate', 'Notes'), *rows])}")
    return "\n\n".join(parts) + "\n"


def _listed(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the documentation of commands.")
    parser.add_argument("--check", action="store_true", help="only say whether the file is up to date")
    parser.add_argument("--output", metavar="FILE", type=Path, default=OUTPUT, help="default: %(default)s")
    options = parser.parse_args()
    text = generate()
    if not options.check:
        options.output.write_text(text, encoding="utf-8")
    elif not options.output.exists() or options.output.read_text(encoding="utf-8") != text:
        sys.exit(f"{options.output} is not up to date: run python -m scripts.generate_command_docs")


if __name__ == "__main__":
    main()
