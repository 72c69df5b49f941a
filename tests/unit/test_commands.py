"""The command table against a real server's own COMMAND, and the rules that make plans of it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.commands import (
    HIDDEN_KEYS,
    MAX_COMMANDS,
    NO_KEY,
    SERVER,
    TABLE,
    Command,
    CommandTable,
    Plan,
    rows_of,
)
from scripts.generate_commands import OUTPUT, ask, generate, own_server, version_of

EMPTY = CommandTable.of([])

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")


@pytest.fixture(scope="module")
def reply() -> Iterator[list[Any]]:
    """COMMAND of the installed redis-server."""
    with own_server() as connection:
        yield ask(connection, "COMMAND")


def command(name: str) -> Command:
    found = TABLE.lookup(name)
    assert found is not None, name
    return found


def names(plan: Plan) -> set[str]:
    return {command.name for command in TABLE.commands if command.plan is plan}


def without_id(command: Command) -> tuple[Any, ...]:
    return tuple(getattr(command, name) for name in Command.__slots__ if name != "id")


# --- the file ----------------------------------------------------------------------------------


def test_file_is_what_the_installed_server_gives() -> None:
    with own_server() as connection:
        installed = version_of(connection)
        if installed != SERVER:
            pytest.skip(f"generated from {SERVER}, installed is {installed}")
        assert generate(connection) == OUTPUT.read_text()


def test_file_has_one_command_a_line_and_names_its_server() -> None:
    lines = OUTPUT.read_text().splitlines()
    assert lines[0].startswith(f'{{"server": "{SERVER}"')
    assert len(lines) - 2 == len(TABLE.by_name)


def test_generator_writes_where_it_is_told(tmp_path: Path) -> None:
    output = tmp_path / "commands.json"
    subprocess.run(
        [sys.executable, "-m", "scripts.generate_commands", "--output", output],
        check=True,
        capture_output=True,
        cwd=OUTPUT.parents[1],
    )
    assert output.read_text().count('"name"') >= 240


def test_generator_refuses_an_address_without_port() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.generate_commands", "localhost"],
        check=False,
        capture_output=True,
        text=True,
        cwd=OUTPUT.parents[1],
    )
    assert done.returncode == 2
    assert "'localhost' is not HOST:PORT" in done.stderr


# --- plans -------------------------------------------------------------------------------------


def test_ids_are_indices_and_0_is_no_command() -> None:
    assert [command.id for command in TABLE.commands] == list(range(len(TABLE.commands)))
    assert TABLE.commands[0].plan is Plan.REFUSE
    assert TABLE.commands[0].name == ""
    assert TABLE.lookup("") is None


def test_lookup_knows_no_case() -> None:
    assert TABLE.lookup("GeT") is TABLE.lookup(b"gEt") is TABLE.by_name["get"]
    assert TABLE.lookup("OBJECT|Encoding") is TABLE.by_name["object|encoding"]
    assert TABLE.lookup("nonesuch") is None
    assert TABLE.lookup(b"\xff\x00") is None


def test_every_plan_but_forward_is_for_these_only() -> None:
    assert names(Plan.SPLIT) == {"mget", "mset", "del", "unlink", "exists", "touch"}
    assert names(Plan.LOCAL) == {
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
        "client|setname",
        "config",
        "config|get",
        "config|help",
        "config|resetstat",
        "config|rewrite",
        "config|set",
    }
    assert {name.partition("|")[0] for name in names(Plan.ANY)} == {
        "command",
        "memory",
        "object",
        "xgroup",
        "xinfo",
    }
    assert {name for name in names(Plan.ANY) if not name.startswith("command")} == {
        "memory|help",
        "object|help",
        "xgroup|help",
        "xinfo|help",
    }


def test_every_data_command_of_redis_7_is_forwarded_or_split() -> None:
    """By the groups of COMMAND DOCS: what is left over blocks or needs no key."""
    groups = {
        "string",
        "list",
        "set",
        "sorted-set",
        "hash",
        "stream",
        "geo",
        "bitmap",
        "hyperloglog",
        "generic",
    }
    left = {
        row["name"]
        for row in rows_in_file()
        if row["group"] in groups and command(row["name"]).plan not in (Plan.FORWARD, Plan.SPLIT, Plan.ANY)
    }
    assert left == {
        "blmove",
        "blmpop",
        "blpop",
        "brpop",
        "brpoplpush",
        "bzmpop",
        "bzpopmax",
        "bzpopmin",
        "xread",
        "xreadgroup",
        "keys",
        "migrate",
        "pfdebug",
        "pfselftest",
        "randomkey",
        "scan",
        "wait",
    }


def rows_in_file() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(OUTPUT.read_text())["commands"]
    return rows


@pytest.mark.parametrize(
    "name",
    [
        "blpop",
        "xread",
        "xreadgroup",
        "eval",
        "evalsha_ro",
        "fcall",
        "script|load",
        "function|list",
        "multi",
        "exec",
        "discard",
        "watch",
        "unwatch",
        "subscribe",
        "spublish",
        "publish",
        "pubsub|numsub",
        "scan",
        "keys",
        "dbsize",
        "flushall",
        "flushdb",
        "randomkey",
        "migrate",
        "restore-asking",
        "cluster|slots",
        "cluster|setslot",
        "replicaof",
        "sync",
        "psync",
        "debug",
        "shutdown",
        "save",
        "acl|setuser",
        "acl|whoami",
        "module|load",
        "monitor",
        "wait",
        "swapdb",
        "reset",
        "asking",
        "readonly",
        "client|kill",
        "client|list",
        "client|tracking",
        "client|reply",
        "memory|stats",
        "pfdebug",
        "cluster",
        "script",
        "function",
        "acl",
        "latency",
        "slowlog",
        "pubsub",
        "module",
    ],
)
def test_refused_with_a_reason(name: str) -> None:
    assert command(name).plan is Plan.REFUSE
    assert command(name).reason


@pytest.mark.parametrize(
    ("name", "first", "last", "step", "keynum"),
    [
        ("get", 1, 1, 1, 0),
        ("rename", 1, 2, 1, 0),
        ("sinter", 1, -1, 1, 0),
        ("bitop", 2, -1, 1, 0),
        ("msetnx", 1, -1, 2, 0),
        ("sort", 1, 1, 1, 0),
        ("georadius", 1, 1, 1, 0),
        ("zunionstore", 1, 1, 1, 2),
        ("zunion", 0, 0, 0, 1),
        ("sintercard", 0, 0, 0, 1),
        ("lmpop", 0, 0, 0, 1),
        ("zmpop", 0, 0, 0, 1),
        ("object|encoding", 2, 2, 1, 0),
        ("memory|usage", 2, 2, 1, 0),
        ("xgroup|create", 2, 2, 1, 0),
        ("xinfo|stream", 2, 2, 1, 0),
    ],
)
def test_forwarded_by_these_keys(name: str, first: int, last: int, step: int, keynum: int) -> None:
    found = command(name)
    assert found.plan is Plan.FORWARD
    assert found.reason == ""
    assert (found.first, found.last, found.step, found.keynum) == (first, last, step, keynum)


def test_what_is_forwarded_has_a_key_and_only_containers_have_none() -> None:
    keyless = {c.name for c in TABLE.commands if c.plan is Plan.FORWARD and not c.first and not c.keynum}
    assert keyless == {"memory", "object", "xgroup", "xinfo"}
    assert all(command(name).container for name in keyless)


def test_command_goes_whole_whatever_its_subcommand() -> None:
    assert command("command").plan is Plan.ANY
    assert not command("command").container


def test_readonly_and_write_are_the_servers(reply: list[Any]) -> None:
    for entry in reply:
        found = command(entry[0].decode())
        assert found.write is (b"write" in entry[2]), found
        if found.plan is not Plan.ANY:
            assert found.readonly is (b"readonly" in entry[2]), found
    assert not any(c.readonly and c.write for c in TABLE.commands)


# --- a backend's own COMMAND -------------------------------------------------------------------


def test_a_table_made_of_the_reply_alone_is_the_same(reply: list[Any]) -> None:
    other = EMPTY.extended(reply)
    if len(other.commands) != len(TABLE.commands):
        pytest.skip(f"the installed server is not {SERVER}")
    assert other.by_name == TABLE.by_name


def test_known_commands_never_change_and_new_ones_come_last(reply: list[Any]) -> None:
    """A table without some commands learns them from the real server as the full table has them."""
    missing = {b"get", b"zunionstore", b"blpop", b"client", b"object"}
    smaller = EMPTY.extended([entry for entry in reply if entry[0] not in missing])
    extended = smaller.extended(reply)
    assert extended.commands[: len(smaller.commands)] == smaller.commands
    learnt = {c.name for c in extended.commands[len(smaller.commands) :]}
    assert {name.partition("|")[0].encode() for name in learnt} == missing
    assert [c.id for c in extended.commands] == list(range(len(extended.commands)))
    for name in learnt:
        assert without_id(extended.by_name[name]) == without_id(EMPTY.extended(reply).by_name[name])
    assert extended.extended(reply) is extended


def test_new_subcommands_of_known_containers() -> None:
    table = TABLE.extended(
        [
            [
                b"client",
                -2,
                [],
                0,
                0,
                0,
                [b"@slow"],
                [],
                [],
                [
                    [b"client|setinfo", 4, [b"noscript"], 0, 0, 0, [b"@slow"], [], [], []],
                    [b"client|capa", -3, [b"noscript"], 0, 0, 0, [b"@slow"], [], [], []],
                ],
            ],
            [
                b"object",
                -2,
                [],
                0,
                0,
                0,
                [b"@slow"],
                [],
                [],
                [
                    [b"object|age", 3, [b"readonly"], 2, 2, 1, [b"@read"], [], [], []],
                ],
            ],
            [
                b"cluster",
                -2,
                [],
                0,
                0,
                0,
                [b"@slow"],
                [],
                [],
                [
                    [b"cluster|slot-stats", -4, [b"stale"], 0, 0, 0, [b"@slow"], [], [], []],
                ],
            ],
        ]
    )
    plans = {c.name: c.plan for c in table.commands[len(TABLE.commands) :]}
    assert plans == {
        "client|setinfo": Plan.LOCAL,
        "client|capa": Plan.REFUSE,
        "object|age": Plan.FORWARD,
        "cluster|slot-stats": Plan.REFUSE,
    }


def spec(begin: list[Any], find: list[Any], flags: list[bytes]) -> list[Any]:
    return [
        b"flags",
        flags,
        b"begin_search",
        [b"type", begin[0], b"spec", begin[1:]],
        b"find_keys",
        [b"type", find[0], b"spec", find[1:]],
    ]


def keynum_spec(at: int, index: int, first: int, step: int) -> list[Any]:
    return spec(
        [b"index", b"index", at],
        [b"keynum", b"keynumidx", index, b"firstkey", first, b"keystep", step],
        [b"RW"],
    )


@pytest.mark.parametrize(
    ("entry", "plan", "keynum", "reason"),
    [
        # A module's command, from a server before Redis 7: six elements.
        ([b"JSON.GET", -2, [b"readonly", b"module"], 1, 1, 1], Plan.FORWARD, 0, ""),
        ([b"ft.search", -3, [b"readonly", b"module"], 0, 0, 0], Plan.REFUSE, 0, NO_KEY),
        ([b"mod.hidden", -3, [b"write", b"movablekeys"], 0, 0, 0], Plan.REFUSE, 0, HIDDEN_KEYS),
        ([b"mod.partly", -3, [b"write", b"movablekeys"], 1, 1, 1], Plan.FORWARD, 0, ""),
        ([b"mod.wait", -3, [b"write", b"blocking"], 1, 1, 1], Plan.REFUSE, 0, "may wait for data to come"),
        (
            [
                b"mod.counted",
                -3,
                [b"write", b"movablekeys"],
                0,
                0,
                0,
                [b"@write"],
                [],
                [keynum_spec(2, 0, 1, 1)],
                [],
            ],
            Plan.FORWARD,
            2,
            "",
        ),
        (
            [
                b"msetex",
                -4,
                [b"write", b"movablekeys"],
                0,
                0,
                0,
                [b"@write"],
                [],
                [keynum_spec(1, 0, 1, 2)],
                [],
            ],
            Plan.REFUSE,
            0,
            HIDDEN_KEYS,
        ),
        (
            [
                b"mod.keyword",
                -3,
                [b"readonly"],
                0,
                0,
                0,
                [b"@read"],
                [],
                [
                    spec(
                        [b"keyword", b"keyword", b"KEYS", b"startfrom", 1],
                        [b"range", b"lastkey", -1, b"keystep", 1, b"limit", 0],
                        [b"RO"],
                    )
                ],
                [],
            ],
            Plan.REFUSE,
            0,
            HIDDEN_KEYS,
        ),
        # RESP3: maps and sets.
        (
            [
                b"mod.resp3",
                -3,
                {b"write"},
                0,
                0,
                0,
                {b"@write"},
                [],
                [
                    {
                        b"flags": {b"RW"},
                        b"begin_search": {b"type": b"index", b"spec": {b"index": 3}},
                        b"find_keys": {
                            b"type": b"keynum",
                            b"spec": {b"keynumidx": 0, b"firstkey": 1, b"keystep": 1},
                        },
                    }
                ],
                [],
            ],
            Plan.FORWARD,
            3,
            "",
        ),
    ],
)
def test_commands_the_table_does_not_know(entry: list[Any], plan: Plan, keynum: int, reason: str) -> None:
    table = TABLE.extended([entry])
    found = table.commands[-1]
    assert len(table.commands) == len(TABLE.commands) + 1
    assert found.name == entry[0].decode().lower()
    assert (found.plan, found.keynum, found.reason) == (plan, keynum, reason)


def test_entries_that_make_no_sense_are_left_out() -> None:
    assert TABLE.extended([None, b"x", [], [b"a", 1], [1, 2, 3, 4, 5, 6], [b"b", None, [], 1, 1, 1]]) is TABLE
    assert TABLE.extended([[b"\xff\xfe", 2, [], 1, 1, 1]]) is TABLE
    assert TABLE.extended([[b"no|container", 2, [], 1, 1, 1]]) is TABLE


def test_no_more_commands_than_there_is_room_for() -> None:
    many = [[b"mod.%04d" % i, 2, [b"readonly"], 1, 1, 1] for i in range(2000)]
    table = TABLE.extended(many)
    assert len(table.commands) == MAX_COMMANDS
    assert table.commands[: len(TABLE.commands)] == TABLE.commands
    assert table.extended(many) is table


def test_the_short_form_of_key_specifications(reply: list[Any]) -> None:
    rows = {row.name: row for row in rows_of(reply)}
    assert rows["get"].specs == ("index:1 range:0:1:0 RO",)
    assert rows["zunionstore"].specs == ("index:1 range:0:1:0 OW", "index:2 keynum:0:1:1 RO")
    assert rows["xread"].specs == ("keyword:STREAMS:1 range:-1:1:2 RO",)
    assert rows["sort"].specs[1:] == ("unknown unknown RO", "unknown unknown OW")
    assert rows["spublish"].specs == ("index:1 range:0:1:0 not_key",)


def test_importing_takes_less_than_a_blink() -> None:
    """The table's own share, without the standard library's modules; a generous bound."""
    program = (
        "import time, json, dataclasses, enum, pathlib, typing\n"
        "begun = time.process_time()\nimport proxy.commands\nprint(time.process_time() - begun)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=OUTPUT.parents[1]
    )
    assert float(done.stdout) < 0.1
