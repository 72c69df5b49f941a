"""The command table against a real server's own COMMAND, and the rules that make plans of it."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.answers import HANDLERS
from proxy.commands import (
    HIDDEN_KEYS,
    MAX_COMMANDS,
    MOST_ARGUMENTS,
    NO_KEY,
    PLANS,
    REASONS,
    REDIS_VERSION,
    REFUSED_MARKS,
    SERVER,
    TABLE,
    Command,
    CommandTable,
    Plan,
    Row,
    rows_of,
)
from scripts.generate_commands import OUTPUT, Listing, ask, generate, listing_of, own_server, widest

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


def without_id(command: Command) -> Command:
    return dataclasses.replace(command, id=0)


# --- the file ----------------------------------------------------------------------------------


def test_file_is_what_the_installed_server_gives() -> None:
    with own_server() as connection:
        listing = listing_of(connection)
    servers = json.loads(OUTPUT.read_text())["servers"]
    if listing.server != servers[0]:
        pytest.skip(f"generated from {servers[0]} first, installed is {listing.server}")
    installed = json.loads(generate([listing]))["commands"]
    in_file = [row for row in rows_in_file() if 0 in row["servers"]]
    assert [without_arity(row) for row in installed] == [
        without_arity({**row, "servers": [0]}) for row in in_file
    ]
    for ours, theirs in zip(in_file, installed, strict=True):
        assert widest([ours["arity"], theirs["arity"]]) == ours["arity"], ours


def without_arity(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "arity"}


def test_file_has_one_command_a_line_and_names_its_servers() -> None:
    lines = OUTPUT.read_text().splitlines()
    assert lines[0].startswith(f'{{"servers": ["{SERVER}", ')
    assert len(lines) - 2 == len(TABLE.by_name)
    assert (SERVER, REDIS_VERSION) == ("redis 7.0.15", "7.0.15")


def test_file_has_redis_7_2_and_7_4_and_valkey_8() -> None:
    servers = [server.split() for server in json.loads(OUTPUT.read_text())["servers"]]
    assert {name for name, _ in servers} == {"redis", "valkey"}
    assert max(version for name, version in servers if name == "redis") >= "7.4"
    assert max(version for name, version in servers if name == "valkey") >= "8.1"
    assert {
        *("client|setinfo", "client|no-touch", "cluster|myshardid", "waitaof"),
        *("hexpire", "hpexpire", "hexpireat", "hpexpireat", "httl", "hpttl", "hexpiretime", "hpexpiretime"),
        *("hpersist", "script|show", "client|capa", "cluster|slot-stats", "commandlog|get"),
    } <= set(TABLE.by_name)
    assert not [row["name"] for row in rows_in_file() if "module" in row["flags"]]  # such are learnt
    assert command("zrank").arity == -3  # 3 in 7.0, with WITHSCORE since 7.2


def listing(server: str, *rows: tuple[str, int, str]) -> Listing:
    """A server's commands: name, arity, since."""
    return Listing(
        server,
        [Row(name, arity, (server,), (), (1, 1, 1), ()) for name, arity, _ in rows],
        {name: {"group": b"string", "since": since.encode()} for name, _, since in rows},
    )


def test_servers_are_merged_and_the_first_wins_but_for_the_arity() -> None:
    text = generate(
        [
            listing("redis 7", ("b", 3, "1"), ("a", 2, "1")),
            listing("valkey 8", ("c", 2, "8"), ("a", -3, "2"), ("b", 3, "2")),
        ]
    )
    data = json.loads(text)
    assert data["servers"] == ["redis 7", "valkey 8"]
    assert [(r["name"], r["arity"], r["flags"], r["since"], r["servers"]) for r in data["commands"]] == [
        ("a", -2, ["redis 7"], "1", [0, 1]),
        ("b", 3, ["redis 7"], "1", [0, 1]),
        ("c", 2, ["valkey 8"], "8", [1]),
    ]


@pytest.mark.parametrize(
    ("arities", "arity"), [([3], 3), ([3, 3], 3), ([3, -3], -3), ([3, -2], -2), ([2, 4], -2), ([-4, -3], -3)]
)
def test_widest_arity(arities: list[int], arity: int) -> None:
    assert widest(arities) == arity


def test_generator_writes_where_it_is_told(tmp_path: Path) -> None:
    output = tmp_path / "commands.json"
    subprocess.run(
        [sys.executable, "-m", "scripts.generate_commands", "redis-server", "--output", output],
        check=True,
        capture_output=True,
        cwd=OUTPUT.parents[1],
    )
    assert output.read_text().count('"name"') >= 240


def test_generator_refuses_an_address_without_port() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.generate_commands", "localhost:redis"],
        check=False,
        capture_output=True,
        text=True,
        cwd=OUTPUT.parents[1],
    )
    assert done.returncode == 2
    assert "'localhost:redis' is not HOST:PORT" in done.stderr


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
    assert names(Plan.TRANSACTION) == {"multi", "exec", "discard", "watch", "unwatch"}
    assert names(Plan.PIN) == {
        *("blpop", "brpop", "blmove", "brpoplpush", "blmpop", "bzpopmin", "bzpopmax", "bzmpop"),
        *("xread", "xreadgroup"),
    }
    assert {name.partition("|")[0] for name in names(Plan.LOCAL)} == {
        *("ping", "echo", "quit", "select", "time", "auth", "hello", "reset", "role"),
        *("readonly", "readwrite", "asking", "publish", "spublish"),
        *("subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"),
        *("client", "config", "slowlog", "latency", "acl", "cluster"),
    }
    assert {name.partition("|")[0] for name in names(Plan.FANOUT)} == {
        *(
            "dbsize",
            "keys",
            "flushall",
            "flushdb",
            "randomkey",
            "scan",
            "wait",
            "waitaof",
            "lastsave",
            "info",
        ),
        *("script", "function", "pubsub", "memory"),
    }
    assert {name for name in names(Plan.ANY) if not name.endswith("|help")} == {
        *("command", "command|count", "command|docs", "command|getkeys", "command|getkeysandflags"),
        *("command|info", "command|list", "lolwut", "acl|cat", "acl|genpass", "module|list", "script|show"),
    }


def test_exceptions_are_for_commands_that_there_are() -> None:
    assert set(PLANS) <= set(TABLE.by_name)
    assert set(REASONS) <= set(TABLE.by_name)
    assert not set(PLANS) & set(REASONS)


def test_refused_ones_and_no_others_have_a_reason() -> None:
    for found in TABLE.commands:
        assert bool(found.reason) is (found.plan is Plan.REFUSE), found
    derived = {c.name for c in TABLE.commands if c.reason in (*REFUSED_MARKS.values(), NO_KEY, HIDDEN_KEYS)}
    assert not derived, "each command of the table has a reason of its own"


def test_every_command_answered_here_has_a_handler_of_its_arity() -> None:
    here = {c.name: c.arity for c in TABLE.commands if c.plan in (Plan.LOCAL, Plan.FANOUT)}
    handlers = {name.decode(): arity for name, (arity, _) in HANDLERS.items()}
    assert {name: handlers.get(name) for name in here} == here


def test_every_data_command_is_forwarded_or_split() -> None:
    """By the groups of COMMAND DOCS: what is left over blocks or concerns all servers."""
    groups = {
        *("string", "list", "set", "sorted-set", "hash", "stream", "geo", "bitmap", "hyperloglog", "generic")
    }
    left = {
        row["name"]
        for row in rows_in_file()
        if row["group"] in groups
        and command(row["name"]).plan not in (Plan.FORWARD, Plan.SPLIT, Plan.ANY, Plan.PIN)
    }
    assert left == {
        *("keys", "randomkey", "scan", "wait", "waitaof"),  # every server
        *("migrate", "pfdebug", "pfselftest"),  # refused
    }


def rows_in_file() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(OUTPUT.read_text())["commands"]
    return rows


@pytest.mark.parametrize(
    "name",
    [
        *(
            "monitor",
            "debug",
            "shutdown",
            "save",
            "bgsave",
            "bgrewriteaof",
            "swapdb",
            "migrate",
            "restore-asking",
        ),
        *("replicaof", "slaveof", "failover", "sync", "psync", "replconf", "pfdebug", "pfselftest"),
        *("module|load", "module|loadex", "module|unload", "acl|setuser", "acl|log", "acl|dryrun"),
        *("memory|stats", "memory|doctor", "memory|malloc-stats", "script|debug"),
        *("client|tracking", "client|caching", "client|capa", "client|import-source"),
        *("cluster|setslot", "cluster|failover", "cluster|meet", "cluster|reset", "cluster|slot-stats"),
        *("commandlog", "commandlog|get"),
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
        ("eval", 0, 0, 0, 2),
        ("evalsha_ro", 0, 0, 0, 2),
        ("fcall", 0, 0, 0, 2),
        ("hexpire", 1, 1, 1, 0),
        ("move", 1, 1, 1, 0),
    ],
)
def test_forwarded_by_these_keys(name: str, first: int, last: int, step: int, keynum: int) -> None:
    found = command(name)
    assert found.plan is Plan.FORWARD
    assert found.reason == ""
    assert (found.first, found.last, found.step, found.keynum) == (first, last, step, keynum)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("blpop", (1, -2, 1, 0, "", 0)),
        ("blmove", (1, 2, 1, 0, "", 0)),
        ("bzmpop", (0, 0, 0, 2, "", 0)),
        ("xread", (0, 0, 0, 0, "STREAMS", 1)),
        ("xreadgroup", (0, 0, 0, 0, "STREAMS", 4)),
    ],
)
def test_pinned_by_these_keys(name: str, keys: tuple[int, int, int, int, str, int]) -> None:
    found = command(name)
    assert found.plan is Plan.PIN
    assert (found.first, found.last, found.step, found.keynum, found.keyword, found.start) == keys


def test_what_is_forwarded_has_a_key_and_only_containers_have_none() -> None:
    keyless = {
        c.name
        for c in TABLE.commands
        if c.plan in (Plan.FORWARD, Plan.PIN) and not (c.first or c.keynum or c.keyword)
    }
    assert keyless == {
        *("acl", "client", "cluster", "config", "function", "latency", "memory", "module", "object"),
        *("pubsub", "script", "slowlog", "xgroup", "xinfo"),
    }
    assert all(command(name).container for name in keyless)


def test_what_may_be_queued_in_a_transaction() -> None:
    for name in (
        *("get", "mset", "rename", "blpop", "xreadgroup", "eval", "fcall", "spublish", "object|help"),
        *(
            "command",
            "lolwut",
            "ping",
            "echo",
            "select",
            "time",
            "publish",
            "unwatch",
        ),
    ):
        assert command(name).queueable, name
    for name in (
        *(
            "multi",
            "exec",
            "discard",
            "watch",
            "subscribe",
            "auth",
            "hello",
            "reset",
            "quit",
            "info",
            "client|id",
        ),
        *(
            "scan",
            "keys",
            "dbsize",
            "flushall",
            "script|load",
            "wait",
            "config|get",
            "slowlog|get",
            "monitor",
        ),
        *("cluster|slots", "asking"),
    ):
        assert not command(name).queueable, name


def test_what_subscribers_of_resp2_may_do() -> None:
    assert {c.name for c in TABLE.commands if c.in_subscription} == {
        *("subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"),
        *("ping", "quit", "reset"),
    }


def test_what_needs_no_authentication() -> None:
    assert {c.name for c in TABLE.commands if c.without_auth} == {"auth", "hello", "quit", "reset"}


def test_what_client_pause_write_holds_back() -> None:
    held = {c.name for c in TABLE.commands if c.may_replicate}
    assert {c.name for c in TABLE.commands if c.write} < held
    assert held - {c.name for c in TABLE.commands if c.write} == {
        *("eval", "evalsha", "fcall", "pfcount", "publish", "spublish")
    }
    assert {"flushall", "function|load", "xreadgroup", "set"} < held


def test_command_goes_whole_whatever_its_subcommand() -> None:
    assert command("command").plan is Plan.ANY
    assert command("command|getkeys").plan is Plan.ANY


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
    assert len(other.by_name) >= 240
    for name, found in other.by_name.items():
        ours = command(name)
        assert dataclasses.replace(found, id=ours.id, arity=ours.arity) == ours


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
                    [b"client|mood", -3, [b"noscript"], 0, 0, 0, [b"@slow"], [], [], []],
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
                    [b"cluster|weather", -4, [b"stale"], 0, 0, 0, [b"@slow"], [], [], []],
                ],
            ],
            [
                b"mod.box",
                -2,
                [],
                0,
                0,
                0,
                [b"@slow"],
                [],
                [],
                [
                    [b"mod.box|help", 2, [], 0, 0, 0, [b"@slow"], [], [], []],
                    [b"mod.box|wait", 3, [b"write", b"blocking"], 2, 2, 1, [b"@slow"], [], [], []],
                    [b"mod.box|tune", 3, [b"admin"], 2, 2, 1, [b"@admin"], [], [], []],
                ],
            ],
        ]
    )
    plans = {c.name: c.plan for c in table.commands[len(TABLE.commands) :]}
    assert plans == {
        "client|mood": Plan.REFUSE,
        "object|age": Plan.FORWARD,
        "cluster|weather": Plan.REFUSE,
        "mod.box": Plan.FORWARD,
        "mod.box|help": Plan.ANY,
        "mod.box|wait": Plan.PIN,
        "mod.box|tune": Plan.REFUSE,
    }
    assert table.by_name["mod.box"].container


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
        ([b"mod.wait", -3, [b"write", b"blocking"], 1, 1, 1], Plan.PIN, 0, ""),
        ([b"mod.doze", -1, [b"blocking"], 0, 0, 0], Plan.REFUSE, 0, NO_KEY),
        ([b"mod.rule", -3, [b"admin", b"blocking"], 1, 1, 1], Plan.REFUSE, 0, REFUSED_MARKS["admin"]),
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


def range_spec(begin: list[Any], last: int, step: int, limit: int) -> list[Any]:
    return spec(begin, [b"range", b"lastkey", last, b"keystep", step, b"limit", limit], [b"RO"])


def keyword_spec(word: bytes, start: int, last: int = -1, step: int = 1, limit: int = 0) -> list[Any]:
    return range_spec([b"keyword", b"keyword", word, b"startfrom", start], last, step, limit)


UNKNOWN_SPEC = spec([b"unknown"], [b"unknown"], [b"RO"])


@pytest.mark.parametrize(
    ("specs", "keys"),
    [
        ([keynum_spec(2, 0, 1, 1)], {"keynum": 2}),
        ([UNKNOWN_SPEC, keynum_spec(2, 0, 1, 1), keynum_spec(3, 0, 1, 1)], {"keynum": 2}),
        # MSETEX numkeys key value …: between the keys are others, and the first will do.
        ([keynum_spec(1, 0, 1, 2)], {"first": 2, "last": 2, "step": 1}),
        ([keynum_spec(1, 0, 3, 1)], {"first": 4, "last": 4, "step": 1}),
        ([keynum_spec(1, 0, 1, 1), keyword_spec(b"ALSO", 1)], {"keynum": 1}),
        ([keyword_spec(b"KEYS", 1)], {"keyword": "KEYS", "start": 1}),
        ([keyword_spec(b"STREAMS", 4, limit=2)], {"keyword": "STREAMS", "start": 4}),
        # Searched for from the end, one key of what follows, keys between others.
        ([keyword_spec(b"KEYS", -2)], None),
        ([keyword_spec(b"STORE", 2, last=0)], None),
        ([keyword_spec(b"PAIRS", 2, step=2)], None),
        ([UNKNOWN_SPEC], None),
    ],
)
def test_keys_of_commands_the_table_does_not_know(specs: list[Any], keys: dict[str, Any] | None) -> None:
    table = TABLE.extended([[b"mod.new", -3, [b"write"], 0, 0, 0, [b"@write"], [], specs, []]])
    found = table.by_name["mod.new"]
    nowhere = {"first": 0, "last": 0, "step": 0, "keynum": 0, "keyword": "", "start": 0}
    assert {name: getattr(found, name) for name in nowhere} == {**nowhere, **(keys or {})}
    if keys is None:
        assert (found.plan, found.reason) == (Plan.REFUSE, HIDDEN_KEYS)
    else:
        assert (found.plan, found.reason) == (Plan.FORWARD, "")


def test_what_is_learnt_may_be_queued_unless_it_says_no() -> None:
    table = TABLE.extended(
        [[b"mod.one", 2, [b"write"], 1, 1, 1], [b"mod.two", 2, [b"write", b"no_multi"], 1, 1, 1]]
    )
    assert table.by_name["mod.one"].queueable
    assert not table.by_name["mod.two"].queueable


def test_entries_that_make_no_sense_are_left_out() -> None:
    assert TABLE.extended([None, b"x", [], [b"a", 1], [1, 2, 3, 4, 5, 6], [b"b", None, [], 1, 1, 1]]) is TABLE
    assert TABLE.extended([[b"\xff\xfe", 2, [], 1, 1, 1]]) is TABLE
    assert TABLE.extended([[b"no|container", 2, [], 1, 1, 1]]) is TABLE
    assert TABLE.extended([[b"far", 2, [], MOST_ARGUMENTS + 1, 1, 1]]) is TABLE
    odd = spec([b"index", b"index", b"one"], [b"keynum", b"keynumidx", 0, b"firstkey", 1, b"keystep", 1], [])
    assert TABLE.extended([[b"odd", 2, [], 0, 0, 0, [], [], [odd], []]]) is TABLE


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
