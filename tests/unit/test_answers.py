"""What the proxy answers itself: state, shapes and errors that need no server to compare with."""

import time

import pytest

from proxy.answers import (
    HANDLERS,
    Client,
    Facts,
    answer,
    matches,
    refused,
    unknown_command,
    unknown_subcommand,
    wrong_arity,
)
from proxy.commands import TABLE, Plan
from proxy.reply import array, bulk, error, integer, mapping, null, simple, verbatim
from proxy.resp import ReplyScanner

FACTS = Facts(
    redis_version="7.0.15",
    proxy_version="1.2.3",
    started=time.time() - 90061,
    tcp_port=6379,
    connected_clients=17,
    max_clients=500,
    max_bulk_length=1 << 29,
    read_timeout=2500,
)


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest) -> Client:
    return Client(7, "127.0.0.1:5555", "127.0.0.1:6379", protocol=request.param)


def ask(client: Client, *args: str | bytes) -> bytes:
    reply = answer(client, FACTS, [arg.encode() if isinstance(arg, str) else arg for arg in args])
    assert ReplyScanner().feed(reply) == [reply], "not one whole reply"
    return reply


# --- replies -----------------------------------------------------------------------------------


def test_replies_by_protocol() -> None:
    assert simple("a\r\nb") == b"+a  b\r\n"
    assert error("bad\nthing") == b"-ERR bad thing\r\n"
    assert error(b"\xff", "NOPROTO") == b"-NOPROTO \xff\r\n"
    assert integer(-3) == b":-3\r\n"
    assert bulk("é") == b"$2\r\n\xc3\xa9\r\n"
    assert bulk(b"") == b"$0\r\n\r\n"
    assert (null(2), null(3)) == (b"$-1\r\n", b"_\r\n")
    assert array([integer(1), bulk("a")]) == b"*2\r\n:1\r\n$1\r\na\r\n"
    assert mapping([(bulk("a"), integer(1))], 2) == b"*2\r\n$1\r\na\r\n:1\r\n"
    assert mapping([(bulk("a"), integer(1))], 3) == b"%1\r\n$1\r\na\r\n:1\r\n"
    assert (verbatim("é", 2), verbatim("é", 3)) == (b"$2\r\n\xc3\xa9\r\n", b"=6\r\ntxt:\xc3\xa9\r\n")


# --- what is answered --------------------------------------------------------------------------


def test_every_local_command_is_answered_and_nothing_else() -> None:
    local = {c.name for c in TABLE.commands if c.plan is Plan.LOCAL and not c.container}
    newer = {"client|setinfo", "client|no-touch"}  # Redis 7.2
    assert {name.decode() for name in HANDLERS} == local | newer


def test_arities_are_the_tables() -> None:
    for name, (arity, _) in HANDLERS.items():
        command = TABLE.lookup(name)
        if command is not None:
            assert arity == command.arity, name


def test_a_subcommand_is_not_a_command(client: Client) -> None:
    assert ask(client, "CLIENT|ID", "x").startswith(b"-ERR unknown command 'CLIENT|ID', with args")


def test_quit_closes(client: Client) -> None:
    assert ask(client, "ping") == b"+PONG\r\n"
    assert not client.closing
    assert ask(client, "QUIT") == b"+OK\r\n"
    assert client.closing


def test_hello_changes_the_protocol_only_when_all_of_it_is_good(client: Client) -> None:
    before = client.protocol
    other = 5 - before
    for wrong in (["AUTH", "default"], ["AUTH", "nobody", "x"], ["SETNAME", "a b"], ["WHAT"]):
        assert ask(client, "HELLO", str(other), *wrong).startswith(b"-")
        assert client.protocol == before
    reply = ask(client, "HELLO", str(other), "SETNAME", "me", "AUTH", "default", "x")
    assert reply[:1] == (b"%" if other == 3 else b"*")
    assert client.protocol == other
    assert client.name == "me"
    ask(client, "HELLO")
    assert client.protocol == other


def test_hello_before_any_server_has_told_its_version(client: Client) -> None:
    facts = Facts("", "1", 0.0, 0, 0, 0, 0)
    assert b"$7\r\nversion\r\n$6\r\n7.0.15\r\n" in answer(client, facts, [b"HELLO"])


def test_setinfo(client: Client) -> None:
    assert ask(client, "CLIENT", "SETINFO", "lib-name", "redis-py(x)") == b"+OK\r\n"
    assert ask(client, "client", "setinfo", "LIB-VER", "8.1.0") == b"+OK\r\n"
    assert (client.lib_name, client.lib_ver) == ("redis-py(x)", "8.1.0")
    assert ask(client, "CLIENT", "SETINFO", "Lib-Name", "a b") == (
        b"-ERR Lib-Name cannot contain spaces, newlines or special characters.\r\n"
    )
    assert ask(client, "CLIENT", "SETINFO", "lib-age", "1") == b"-ERR Unrecognized option 'lib-age'\r\n"
    assert ask(client, "CLIENT", "SETINFO", "lib-name") == (
        b"-ERR wrong number of arguments for 'client|setinfo' command\r\n"
    )
    assert (client.lib_name, client.lib_ver) == ("redis-py(x)", "8.1.0")
    assert ask(client, "CLIENT", "SETINFO", "lib-name", "") == b"+OK\r\n"
    assert client.lib_name == ""


def test_client_info_tells_what_is_known(client: Client) -> None:
    ask(client, "CLIENT", "SETNAME", "me")
    ask(client, "CLIENT", "SETINFO", "LIB-NAME", "lib")
    client.created = time.monotonic() - 60
    text = ask(client, "CLIENT", "INFO").decode()
    assert text.startswith("=" if client.protocol == 3 else "$")
    fields = dict(word.split("=", 1) for word in text.split() if "=" in word and not word.startswith("="))
    assert fields["addr"] == "127.0.0.1:5555"
    assert fields["laddr"] == "127.0.0.1:6379"
    assert (fields["name"], fields["lib-name"], fields["lib-ver"]) == ("me", "lib", "")
    assert fields["age"] in ("60", "61")
    assert (fields["flags"], fields["resp"]) == ("N", str(client.protocol))
    client.listener = "/run/proxy.sock:0"
    assert b" flags=U " in ask(client, "CLIENT", "INFO")


@pytest.mark.parametrize(
    "args",
    [
        ["MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type", "internal-ip"],
        ["KILL", "x"],
        ["LIST"],
        ["TRACKING", "ON"],
    ],
)
def test_other_client_subcommands_are_unknown(client: Client, args: list[str]) -> None:
    assert ask(client, "Client", *args).decode() == (
        f"-ERR unknown subcommand '{args[0]}'. Try CLIENT HELP.\r\n"
    )


def test_time_is_now(client: Client) -> None:
    _, _, seconds, _, microseconds, _ = ask(client, "TIME").split(b"\r\n")
    assert abs(int(seconds) + int(microseconds) / 1e6 - time.time()) < 5
    assert 0 <= int(microseconds) < 1_000_000


def test_help_lists_every_subcommand(client: Client) -> None:
    for container, unlisted in (("client", set()), ("config", {"set", "resetstat", "rewrite"})):
        words = set(ask(client, container, "HELP").decode().replace("+", "\n").lower().split())
        names = [name.decode().partition("|") for name in HANDLERS]
        assert {sub for name, _, sub in names if name == container} - words == unlisted


# --- CONFIG ------------------------------------------------------------------------------------


def config(client: Client, *patterns: str) -> dict[bytes, bytes]:
    lines = ask(client, "CONFIG", "GET", *patterns).split(b"\r\n")
    return dict(zip(lines[2::4], lines[4::4], strict=False))


def test_config_get_tells_the_proxys_own(client: Client) -> None:
    assert config(client, "*") == {name.encode(): value.encode() for name, value in FACTS.config.items()}
    assert config(client, "maxclients") == {b"maxclients": b"500"}
    assert config(client, "timeout") == {b"timeout": b"3"}
    assert config(client, "Max*icy", "save", "S?ve") == {b"maxmemory-policy": b"noeviction", b"save": b""}


def test_no_limit_of_clients_is_that_of_open_files(client: Client) -> None:
    facts = Facts("", "1", 0.0, 0, 0, 0, 0)
    assert int(facts.config["maxclients"]) > 0
    assert facts.config["timeout"] == "0"


@pytest.mark.parametrize("sub", ["RESETSTAT", "rewrite"])
def test_config_changes_are_refused(client: Client, sub: str) -> None:
    assert ask(client, "CONFIG", sub).decode() == (
        f"-ERR CONFIG {sub.upper()} is not supported by the proxy\r\n"
    )


def test_a_hostile_pattern_takes_no_time() -> None:
    begun = time.process_time()
    assert not matches(b"*a" * 500 + b"b", b"a" * 1000)
    assert matches(b"*" * 5000, b"a" * 1000)
    assert time.process_time() - begun < 5


# --- INFO --------------------------------------------------------------------------------------


def info(client: Client, *sections: str) -> dict[str, str]:
    text = ask(client, "INFO", *sections).decode()
    lines = text.partition("\r\n")[2].removeprefix("txt:").split("\r\n")
    return dict(line.split(":", 1) for line in lines if ":" in line)


def test_info_has_what_clients_look_for(client: Client) -> None:
    found = info(client)
    assert found["redis_version"] == "7.0.15"
    assert found["proxy_version"] == "1.2.3"
    assert found["redis_mode"] == "standalone"
    assert found["arch_bits"] in ("32", "64")
    assert found["loading"] == "0"
    assert found["role"] == "master"
    assert found["cluster_enabled"] == "0"
    assert found["connected_clients"] == "17"
    assert found["maxclients"] == "500"
    assert found["tcp_port"] == "6379"
    assert found["uptime_in_days"] == "1"
    assert int(found["uptime_in_seconds"]) in range(90061, 90161)
    assert int(found["used_memory"]) > 1 << 20
    assert info(client, "all").keys() == info(client, "everything").keys() == found.keys()


def test_info_by_sections(client: Client) -> None:
    assert info(client, "Cluster") == {"cluster_enabled": "0"}
    assert info(client, "replication", "cluster", "nonesuch") == {
        "role": "master",
        "connected_slaves": "0",
        "cluster_enabled": "0",
    }
    assert info(client, "nonesuch") == {}


# --- errors ------------------------------------------------------------------------------------


def test_errors_for_what_the_data_plane_refuses() -> None:
    assert unknown_command([b"foo"]) == b"-ERR unknown command 'foo', with args beginning with: \r\n"
    assert unknown_command([b"foo", b"a\r\nb", b"c\0d"]) == (
        b"-ERR unknown command 'foo', with args beginning with: 'a  b' 'c' \r\n"
    )
    assert unknown_subcommand(b"Object", b"Foo") == b"-ERR unknown subcommand 'Foo'. Try OBJECT HELP.\r\n"
    assert wrong_arity("get") == b"-ERR wrong number of arguments for 'get' command\r\n"


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("blpop", [b"BLPOP", b"a", b"0"], b"unknown command 'BLPOP', with args beginning with: 'a' '0' "),
        ("client|kill", [b"Client", b"Kill", b"x"], b"unknown subcommand 'Kill'. Try CLIENT HELP."),
        ("memory|stats", [b"MEMORY", b"STATS"], b"unknown subcommand 'STATS'. Try MEMORY HELP."),
        ("cluster|slots", [b"CLUSTER", b"x"], b"unknown command 'CLUSTER', with args beginning with: 'x' "),
        ("cluster", [b"CLUSTER"], b"unknown command 'CLUSTER', with args beginning with: "),
    ],
)
def test_refused_commands_are_unknown(name: str, args: list[bytes], text: bytes) -> None:
    command = TABLE.lookup(name)
    assert command is not None
    assert command.plan is Plan.REFUSE
    assert refused(command, args) == b"-ERR " + text + b"\r\n"
    assert refused(TABLE.commands[0], [b"", b"x"]) == (
        b"-ERR unknown command '', with args beginning with: 'x' \r\n"
    )
