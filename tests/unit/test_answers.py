"""What the proxy answers itself: state, shapes and errors that need no server to compare with."""

import time
from ipaddress import ip_network

import pytest

from proxy.address import Address
from proxy.answers import (
    HANDLERS,
    Client,
    Facts,
    refused,
    unknown_command,
    unknown_subcommand,
    wrong_arity,
)
from proxy.answers.registry import REPLIES_OFF, REPLIES_ON
from proxy.commands import TABLE, Plan
from proxy.config import ClientUser, ClusterConfig, ProxyConfig, keys
from proxy.glob import matches
from proxy.pubsub import Kind
from proxy.reply import array, bulk, error, integer, mapping, null, simple, verbatim
from proxy.resp import ReplyScanner
from tests.unit.context import StubContext, cluster_config, reply_to, user

WRONG_PASSWORD = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest) -> Client:
    return Client(7, "127.0.0.1:5555", "127.0.0.1:6379", protocol=request.param)


def ask(client: Client, *args: str | bytes, context: StubContext | None = None) -> bytes:
    words = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    reply = reply_to(client, context or StubContext(), words)
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


def test_every_command_that_is_answered_here_has_a_handler_and_no_other() -> None:
    plans = (Plan.LOCAL, Plan.FANOUT)
    assert {name.decode() for name in HANDLERS} == {
        command.name for command in TABLE.commands if command.plan in plans and not command.container
    }


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


def test_ping_of_a_client_with_subscriptions(client: Client) -> None:
    client.subscriptions = 1
    assert ask(client, "PING", "a") == (
        b"*2\r\n$4\r\npong\r\n$1\r\na\r\n" if client.protocol == 2 else b"$1\r\na\r\n"
    )


def test_hello_changes_nothing_unless_all_of_it_is_good(client: Client) -> None:
    before = client.protocol
    other = 5 - before
    for wrong in (
        ["AUTH", "default"],
        ["AUTH", "nobody", "x"],
        ["SETNAME", "a b"],
        ["WHAT"],
        ["SETNAME", "y", "AUTH", "nobody", "x"],
        ["SETNAME", "y", "WHAT"],
    ):
        assert ask(client, "HELLO", str(other), *wrong).startswith(b"-")
        assert (client.protocol, client.name) == (before, "")
    reply = ask(client, "HELLO", str(other), "SETNAME", "me", "AUTH", "default", "x")
    assert reply[:1] == (b"%" if other == 3 else b"*")
    assert client.protocol == other
    assert client.name == "me"
    ask(client, "HELLO")
    assert client.protocol == other


def test_hello_before_any_server_has_told_its_version(client: Client) -> None:
    context = StubContext(facts=Facts("", "1", 0.0, 0, 0, 0, 0))
    assert b"$7\r\nversion\r\n$6\r\n7.0.15\r\n" in ask(client, "HELLO", context=context)


def test_hello_tells_of_a_cluster_when_an_address_is_announced(client: Client) -> None:
    context = StubContext(cluster_config(announce_addr=Address("lb.example", 6379)))
    assert b"$4\r\nmode\r\n$7\r\ncluster\r\n" in ask(client, "HELLO", context=context)
    assert b"$4\r\nmode\r\n$10\r\nstandalone\r\n" in ask(client, "HELLO")


# --- authentication ----------------------------------------------------------------------------


def stranger(protocol: int = 2) -> Client:
    return Client(8, "127.0.0.1:5556", "127.0.0.1:6379", protocol=protocol, authenticated=False)


def protected(**values: object) -> StubContext:
    return StubContext(cluster_config(**values))


def test_auth_with_the_default_users_password() -> None:
    context = protected(client_password="secret", client_users=(user("bob", "builder"),))
    for good, name in (
        (["AUTH", "secret"], "default"),
        (["AUTH", "default", "secret"], "default"),
        (["AUTH", "bob", "builder"], "bob"),
        (["HELLO", "3", "AUTH", "bob", "builder"], "bob"),
        (["HELLO", "2", "AUTH", "default", "secret"], "default"),
    ):
        client = stranger()
        assert not ask(client, *good, context=context).startswith(b"-"), good
        assert (client.authenticated, client.user) == (True, name)
    for wrong in (
        ["AUTH", "builder"],
        ["AUTH", ""],
        ["AUTH", "default", "builder"],
        ["AUTH", "bob", "secret"],
        ["AUTH", "Bob", "builder"],
        ["AUTH", "nobody", ""],
        ["HELLO", "3", "AUTH", "bob", "secret", "SETNAME", "x"],
    ):
        client = stranger()
        assert ask(client, *wrong, context=context) == WRONG_PASSWORD, wrong
        assert client == stranger_like(client)


def stranger_like(client: Client) -> Client:
    other = stranger()
    other.created = client.created
    return other


def test_a_failed_auth_leaves_a_client_who_it_was() -> None:
    context = protected(client_users=(user("bob", "builder"),))
    client = stranger()
    ask(client, "AUTH", "bob", "builder", context=context)
    assert ask(client, "AUTH", "bob", "wrong", context=context) == WRONG_PASSWORD
    assert (client.authenticated, client.user) == (True, "bob")
    assert ask(client, "ACL", "WHOAMI", context=context) == b"$3\r\nbob\r\n"


def test_the_default_user_is_off_when_there_are_only_others() -> None:
    context = protected(client_users=(user("bob", "builder"),))
    for wrong in (["AUTH", "x"], ["AUTH", ""], ["AUTH", "default", ""], ["AUTH", "default", "x"]):
        assert ask(stranger(), *wrong, context=context) == WRONG_PASSWORD


def test_without_users_the_default_one_takes_any_password(client: Client) -> None:
    assert ask(client, "AUTH", "x").startswith(b"-ERR AUTH <password> called without any password configured")
    assert ask(client, "AUTH", "default", "x") == b"+OK\r\n"
    assert ask(client, "AUTH", "bob", "x") == WRONG_PASSWORD


@pytest.mark.parametrize("options", [[], ["3"], ["3", "SETNAME", "x"]])
def test_hello_of_a_stranger(options: list[str]) -> None:
    client = stranger()
    assert ask(client, "HELLO", *options, context=protected(client_password="secret")) == (
        b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH "
        b"<user> <pass> option can be used to authenticate the client and select the RESP protocol version "
        b"at the same time\r\n"
    )
    assert client == stranger_like(client)


@pytest.mark.parametrize("password", ["", "secret"])
def test_reset(client: Client, password: str) -> None:
    context = protected(client_password=password)
    client.name, client.user, client.replies = "me", "bob", REPLIES_OFF
    context.hub.subscribe(client, Kind.CHANNEL, [b"news"], lambda reply: None)
    assert client.subscriptions == 1
    assert ask(client, "RESET", context=context) == b"+RESET\r\n"
    assert (client.protocol, client.name, client.user) == (2, "", "default")
    assert client.replies == REPLIES_ON
    assert client.authenticated is not bool(password)
    assert client.subscriptions == 0


@pytest.mark.parametrize("command", ["READONLY", "READWRITE", "ASKING"])
def test_what_clients_of_clusters_say_is_accepted(client: Client, command: str) -> None:
    assert ask(client, command) == b"+OK\r\n"


def test_role(client: Client) -> None:
    assert ask(client, "ROLE") == b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"


def test_time_is_now(client: Client) -> None:
    _, _, seconds, _, microseconds, _ = ask(client, "TIME").split(b"\r\n")
    assert abs(int(seconds) + int(microseconds) / 1e6 - time.time()) < 5
    assert 0 <= int(microseconds) < 1_000_000


def test_help_lists_every_subcommand(client: Client) -> None:
    names = [name.decode().partition("|") for name in HANDLERS]
    for container in ("client", "cluster", "config", "slowlog", "latency"):
        words = set(ask(client, container, "HELP").decode().replace("+", "\n").lower().split())
        unlisted = {"set", "resetstat", "rewrite"} if container == "config" else set()
        assert {sub for name, _, sub in names if name == container} - words == unlisted


# --- CONFIG ------------------------------------------------------------------------------------


def config(client: Client, *patterns: str, context: StubContext | None = None) -> dict[bytes, bytes]:
    lines = ask(client, "CONFIG", "GET", *patterns, context=context).split(b"\r\n")
    return dict(zip(lines[2::4], lines[4::4], strict=False))


def test_config_get_tells_what_clients_ask_any_redis_for(client: Client) -> None:
    assert config(client, "maxclients") == {b"maxclients": b"500"}
    assert config(client, "timeout") == {b"timeout": b"3"}
    assert config(client, "Max*icy", "save", "S?ve") == {b"maxmemory-policy": b"noeviction", b"save": b""}
    assert config(client, "cluster-enabled") == {b"cluster-enabled": b"no"}


def test_config_get_tells_the_keys_of_the_files(client: Client) -> None:
    context = StubContext(
        cluster_config(
            read_timeout=700,
            announce_addr=Address("lb.example", 7),
            servers=(Address("a", 1), Address("::1", 2)),
            server_zones=((ip_network("10.0.0.0/8"), "zone-a"),),
            slowlog_slower_than=20,
        ),
        ProxyConfig(read_timeout=900, threads=3, use_metrics=True, stat=Address("0.0.0.0", 80)),
    )

    def value(name: str) -> str:
        return config(client, name, context=context)[name.encode()].decode()

    assert (value("read_timeout"), value("proxy.read_timeout")) == ("700", "900")
    assert (value("threads"), value("use_metrics"), value("debug")) == ("3", "yes", "no")
    assert (value("stat"), value("pprof")) == ("0.0.0.0:80", "")
    assert (value("announce_addr"), value("cluster-enabled")) == ("lb.example:7", "yes")
    assert value("servers") == "a:1, [::1]:2"
    assert value("server_zones") == "10.0.0.0/8 zone-a"
    assert value("slowlog-log-slower-than") == value("slowlog_slower_than") == "20"


def test_config_get_tells_every_key_but_no_secret(client: Client) -> None:
    secrets = {"redis_auth": "xyzzy1", "client_password": "xyzzy2"}
    users = (ClientUser("bob", b"xyzzy3", "xyzzy4"),)
    context = StubContext(cluster_config(**secrets, client_users=users))
    found = config(client, "*", context=context)
    declared = {name for kind in (ProxyConfig, ClusterConfig) for _, name, _ in keys(kind)}
    assert declared - {name.decode() for name in found} == {*secrets, "client_users"}
    assert b"xyzzy" not in ask(client, "CONFIG", "GET", "*", context=context)
    for name in ("redis_auth", "client_password", "client_users"):
        assert config(client, name, context=context) == {}


def test_no_limit_of_clients_is_that_of_open_files(client: Client) -> None:
    context = StubContext(facts=Facts("", "1", 0.0, 0, 0, 0, 0))
    assert int(config(client, "maxclients", context=context)[b"maxclients"]) > 0
    assert config(client, "timeout", context=context) == {b"timeout": b"0"}


@pytest.mark.parametrize("name", ["maxmemory", "read_timeout"])
def test_config_set_changes_nothing(client: Client, name: str) -> None:
    assert ask(client, "CONFIG", "SET", name, "1").endswith(b"can't set immutable config\r\n")
    assert ask(client, "CONFIG", "SET", "client_password", "1").startswith(b"-ERR Unknown option or number")


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
        ("monitor", [b"Monitor", b"x"], "unknown command 'Monitor': the proxy does not carry it out: {}"),
        ("debug", [b"DEBUG", b"\r\nx"], "unknown command 'DEBUG': the proxy does not carry it out: {}"),
        (
            "client|tracking",
            [b"Client", b"Tracking", b"on"],
            "unknown subcommand 'Tracking'. Try CLIENT HELP. The proxy does not carry it out: {}",
        ),
        (
            "memory|stats",
            [b"MEMORY", b"STATS"],
            "unknown subcommand 'STATS'. Try MEMORY HELP. The proxy does not carry it out: {}",
        ),
        (
            "commandlog|get",
            [b"COMMANDLOG", b"GET"],
            "unknown command 'COMMANDLOG': the proxy does not carry it out: {}",
        ),
    ],
)
def test_refused_commands_are_unknown_for_a_reason(name: str, args: list[bytes], text: str) -> None:
    command = TABLE.lookup(name)
    assert command is not None
    assert command.plan is Plan.REFUSE
    assert command.reason
    assert refused(command, args).decode() == f"-ERR {text.format(command.reason)}\r\n"


def test_a_request_that_names_no_command_is_just_unknown() -> None:
    assert refused(TABLE.commands[0], [b"", b"x"]) == (
        b"-ERR unknown command '', with args beginning with: 'x' \r\n"
    )
