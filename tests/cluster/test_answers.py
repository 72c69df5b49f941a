"""What the proxy answers itself, byte for byte against a plain redis-server, in both protocols."""

import shlex
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.answers import (
    SECTIONS,
    Client,
    Facts,
    answer,
    matches,
    unknown_command,
    unknown_subcommand,
    wrong_arity,
)
from proxy.commands import SERVER
from proxy.resp import ReplyScanner

Args = list[bytes]

SETTINGS = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def words(line: str) -> Args:
    """A command line, with the escapes of Python's strings."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.escape = lexer.commenters = ""
    return [word.encode().decode("unicode_escape").encode("latin-1") for word in lexer]


class Server:
    """A connection to the real server that gives replies as the bytes they came in."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.scanner = ReplyScanner()
        self.replies: list[bytes] = []

    def __call__(self, args: Args) -> bytes:
        self.socket.sendall(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in args))
        while not self.replies:
            data = self.socket.recv(1 << 16)
            assert data, f"the server closed the connection at {args}"
            self.replies += self.scanner.feed(data)
        return self.replies.pop(0)

    @property
    def closed(self) -> bool:
        """Waits for the server to say or end something."""
        return self.socket.recv(1) == b""


@pytest.fixture
def connect(plain: Any) -> Iterator[Callable[[], Server]]:
    opened: list[Server] = []

    def connection() -> Server:
        opened.append(Server(plain.address.host, plain.address.port))
        return opened[-1]

    yield connection
    for server in opened:
        server.socket.close()


@pytest.fixture
def server(connect: Callable[[], Server]) -> Server:
    return connect()


@pytest.fixture(autouse=True)
def _same_version(connect: Callable[[], Server]) -> None:
    version = SERVER.rpartition(" ")[2]
    if f"redis_version:{version}\r\n".encode() not in connect()([b"INFO", b"server"]):
        pytest.skip(f"the installed server is not {SERVER}, whose words the answers are")


@pytest.fixture(params=[2, 3])
def both(request: pytest.FixtureRequest, server: Server) -> tuple[Server, Client, Facts]:
    """The real server and our answers, in the same state, by RESP2 and by RESP3."""
    facts = Facts(
        redis_version=SERVER.rpartition(" ")[2],
        proxy_version="1",
        started=time.time(),
        tcp_port=server.socket.getpeername()[1],
        connected_clients=1,
        max_clients=10000,
        max_bulk_length=536870912,
    )
    client = Client(int(server([b"CLIENT", b"ID"])[1:]), "127.0.0.1:1", "127.0.0.1:2")
    if request.param == 3:
        assert answer(client, facts, [b"HELLO", b"3"]) == server([b"HELLO", b"3"])
    return server, client, facts


SESSIONS = """
PING | ping a | PING '' | PING a b | PING a b c | ECHO a | ECHO | ECHO a b | ECHO '\\x00\\xff\\r\\n'
SELECT 0 | SELECT | SELECT 0 0 | SELECT a | SELECT '' | SELECT -1 | SELECT 16
SELECT 99999 | SELECT +0 | SELECT -0 | SELECT 00 | SELECT ' 0' | SELECT 0x0 | SELECT 1_0
SELECT 2147483647 | SELECT 2147483648 | SELECT -2147483649
SELECT 9223372036854775807 | SELECT 9223372036854775808 | SELECT -9223372036854775808 | SELECT 0\\x00
TIME a | AUTH | AUTH a | AUTH '' | AUTH default | AUTH default b | AUTH DEFAULT b
AUTH default\\x00 b | AUTH a b | AUTH a b c | AUTH default b c d
HELLO | HELLO 2 | HELLO 3 | HELLO | hello 3 | CLIENT GETNAME | HELLO 2 | CLIENT GETNAME
HELLO 1 | HELLO 4 | HELLO 0 | HELLO -3 | HELLO x | HELLO 03 | HELLO ''
HELLO ' 3' | HELLO 99999999999999999999
HELLO AUTH default x | HELLO 2 AUTH | HELLO 3 AUTH a | HELLO 3 AUTH a b | HELLO 2 auth default b
HELLO 5 AUTH a | HELLO 3 SETNAME | HELLO 2 SETNAME abc | CLIENT GETNAME
HELLO 3 SETNAME 'a b' | CLIENT GETNAME | HELLO 2 SETNAME b | HELLO 3 SETNAME 'a b' | CLIENT GETNAME
HELLO 3 AUTH default b SETNAME x | CLIENT GETNAME | HELLO 2 SETNAME a SETNAME '' | CLIENT GETNAME
HELLO 3 SETNAME y AUTH a b | CLIENT GETNAME | HELLO 3 SETNAME z FOO | CLIENT GETNAME
HELLO 3 'F\\r\\nO\\x00x' | HELLO
HELLO 2 AUTH default SETNAME x | HELLO 2 SETNAME AUTH default x | CLIENT GETNAME
HELLO 2 AUTH default x SETNAME
CLIENT | CLIENT FOO | CLIENT 'Foo\\r\\nb\\x00ar' | CLIENT '' | client foo bar baz | CLIENT ID | CLIENT ID a
CLIENT SETNAME | CLIENT SETNAME a b | CLIENT SETNAME 'a b' | CLIENT SETNAME a\\x00b
CLIENT SETNAME \\xff | CLIENT SETNAME \\x7f | CLIENT SETNAME x | CLIENT GETNAME
CLIENT SETNAME '' | CLIENT GETNAME | CLIENT SETNAME '~!' | CLIENT GETNAME | CLIENT SETNAME '' | CLIENT GETNAME
CLIENT GETNAME a | CLIENT INFO a | CLIENT HELP a | CLIENT NO-EVICT | CLIENT NO-EVICT on | CLIENT no-evict OFF
CLIENT NO-EVICT x | CLIENT NO-EVICT on x | CLIENT MAINT_NOTIFICATIONS ON
CONFIG | CONFIG GET | CONFIG FOO | CONFIG 'a\\nb' | CONFIG GET nonesuch | CONFIG GET 'nonesuch*'
CONFIG GET save\\x00x | CONFIG GET maxmemory | CONFIG GET MaxMemory | CONFIG GET maxmemory-polic[yz]
CONFIG GET MAXMEMORY maxmemory | CONFIG GET maxmemory MAXMEMORY
CONFIG SET | CONFIG SET a | CONFIG SET a b c | CONFIG SET a b
CONFIG SET 'a\\r\\nb\\x00c' 1 | CONFIG SET a 1 b 2
CONFIG SET databases 5 | CONFIG SET DATABASES 5
CONFIG SET databases 5 nonesuch 3 | CONFIG SET nonesuch 3 databases 5
CONFIG RESETSTAT a | CONFIG REWRITE a | CONFIG HELP a | INFO nonesuch | INFO cluster | INFO CLUSTER nonesuch
INFO cluster cluster
""".strip().splitlines()


@pytest.mark.parametrize("session", SESSIONS)
def test_sessions(both: tuple[Server, Client, Facts], session: str) -> None:
    server, client, facts = both
    for line in session.split(" | "):
        args = words(line)
        assert answer(client, facts, args) == server(args), line


def test_config_values_that_are_the_same_everywhere(both: tuple[Server, Client, Facts]) -> None:
    server, client, facts = both
    own = {"databases", "save", "appendonly", "maxclients"}  # the server's are its own
    for name in facts.config.keys() - own:
        args = [b"CONFIG", b"GET", name.encode()]
        assert answer(client, facts, args) == server(args), name
    for name in own:
        assert server([b"CONFIG", b"GET", name.encode()]).count(b"\r\n") == 5, f"Redis has no {name}"


def test_quit(both: tuple[Server, Client, Facts]) -> None:
    server, client, facts = both
    assert answer(client, facts, [b"QUIT", b"x"]) == server([b"QUIT", b"x"])
    assert client.closing
    assert server.closed


def shape(reply: bytes) -> list[bytes]:
    """The types and line structure of a reply, without its values."""
    return [line[:1] for line in reply.split(b"\r\n")]


def test_time_has_the_same_shape(both: tuple[Server, Client, Facts]) -> None:
    server, client, facts = both
    ours, theirs = answer(client, facts, [b"TIME"]), server([b"TIME"])
    assert shape(ours) == shape(theirs)
    assert ours.split(b"\r\n")[1:3][0] == theirs.split(b"\r\n")[1:3][0]


def test_help_has_the_same_shape(both: tuple[Server, Client, Facts]) -> None:
    server, client, facts = both
    for container in (b"CLIENT", b"CONFIG"):
        ours, theirs = answer(client, facts, [container, b"HELP"]), server([container, b"HELP"])
        assert set(shape(ours)) == set(shape(theirs))
        assert ours.split(b" ")[:3] == [ours.split(b"+")[0] + b"+" + container, b"<subcommand>", b"[<arg>"]


def test_client_info_has_the_servers_fields_in_their_order(both: tuple[Server, Client, Facts]) -> None:
    server, client, facts = both
    ours, theirs = answer(client, facts, [b"CLIENT", b"INFO"]), server([b"CLIENT", b"INFO"])
    assert ours[:1] == theirs[:1]
    assert ours[-3:] == theirs[-3:]

    def fields(reply: bytes) -> list[bytes]:
        return [word.partition(b"=")[0] for word in reply.split(b"\r\n")[1].removeprefix(b"txt:").split()]

    assert fields(ours) == [*fields(theirs), b"lib-name", b"lib-ver"]


def parsed(reply: bytes) -> list[tuple[str, list[str]]]:
    """INFO's sections in their order, with the names of their fields."""
    text = reply.partition(b"\r\n")[2].removesuffix(b"\r\n").removeprefix(b"txt:").decode()
    found = []
    for section in text.split("\r\n\r\n"):
        title, *lines = section.splitlines()
        found.append((title.removeprefix("# "), [line.partition(":")[0] for line in lines]))
    return found


@pytest.mark.parametrize("sections", [[], [b"all"], [b"everything"], [b"default"], [b"cpu", b"Server", b"x"]])
def test_info_is_a_part_of_the_servers(both: tuple[Server, Client, Facts], sections: Args) -> None:
    """Sections and fields in the server's order; none that it does not have but proxy_version."""
    server, client, facts = both
    ours, theirs = answer(client, facts, [b"INFO", *sections]), server([b"INFO", *sections])
    assert ours[:1] == theirs[:1]
    real = dict(parsed(theirs))
    assert [title for title, _ in parsed(ours)] == [title for title in real if title in SECTIONS]
    for title, fields in parsed(ours):
        known = [name for name in fields if name != "proxy_version"]
        assert known == [name for name in real[title] if name in known]


def test_info_values_that_clients_act_on(both: tuple[Server, Client, Facts]) -> None:
    server, client, facts = both
    for name in (
        "redis_version",
        "redis_mode",
        "arch_bits",
        "os",
        "multiplexing_api",
        "tcp_port",
        "loading",
        "role",
        "connected_slaves",
        "cluster_enabled",
        "maxmemory",
        "maxmemory_policy",
        "aof_enabled",
    ):
        ours, theirs = answer(client, facts, [b"INFO"]), server([b"INFO"])
        line = next(line for line in ours.split(b"\r\n") if line.startswith(name.encode() + b":"))
        assert line in theirs.split(b"\r\n")


# --- errors of the data plane ------------------------------------------------------------------

UNKNOWN = [
    "foo",
    "foo a b c",
    "'' a",
    "f\\x00oo a",
    "\\xff\\xfe \\xff",
    "OBJECT|ENCODING x",
    "'foo\\r\\nbar' 'a\\x00b' 'a\\r\\nb\\n' '\\r' 'c\\n'",
    "foo " + "'' " * 60,
    "foo " + "a " * 60,
    "f" * 200 + " " + "a" * 200,
    *("foo " + "a" * size + " b c" for size in range(122, 130)),
]


@pytest.mark.parametrize("line", UNKNOWN)
def test_unknown_commands(server: Server, line: str) -> None:
    args = words(line)
    assert unknown_command(args) == server(args)
    assert unknown_command([arg[:128] for arg in args[:44]]) == server(args)


@SETTINGS
@given(name=st.binary(max_size=150), rest=st.lists(st.binary(max_size=60), max_size=50))
def test_unknown_commands_of_any_bytes(server: Server, name: bytes, rest: Args) -> None:
    args = [b"no-" + name, *rest]
    assert unknown_command(args) == server(args)


@SETTINGS
@given(sub=st.binary(max_size=200), container=st.sampled_from([b"object", b"CLIENT", b"XInfo", b"config"]))
def test_unknown_subcommands_of_any_bytes(server: Server, container: bytes, sub: bytes) -> None:
    assert unknown_subcommand(container, b"no-" + sub) == server([container, b"no-" + sub])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("GET", "get"),
        ("Set a", "set"),
        ("OBJECT", "object"),
        ("object ENCODING", "object|encoding"),
        ("XINFO help x", "xinfo|help"),
        ("memory usage", "memory|usage"),
        ("MSET a b c", "mset"),
    ],
)
def test_wrong_arity(server: Server, line: str, name: str) -> None:
    assert wrong_arity(name) == server(words(line))


@SETTINGS
@given(
    number=st.one_of(
        st.integers(-1 << 65, 1 << 65).map(lambda n: b"%d" % n),
        st.text("0123456789-+ _x", max_size=22).map(str.encode),
    )
)
def test_numbers(server: Server, number: bytes) -> None:
    """HELLO's number, which is never a protocol here, and SELECT's, where only 0 is a database."""
    client, facts = Client(1, "", ""), Facts("", "", 0.0, 0, 0, 0, 0)
    if number not in (b"2", b"3"):
        args = [b"HELLO", number]
        assert answer(client, facts, args) == server(args)
    if number not in [b"%d" % n for n in range(1, 16)]:
        args = [b"SELECT", number]
        assert answer(client, facts, args) == server(args)


# --- CONFIG GET's patterns ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def config_names(plain: Any) -> list[bytes]:
    server = Server(plain.address.host, plain.address.port)
    names = server([b"CONFIG", b"GET", b"*"]).split(b"\r\n")[2::4]
    server.socket.close()
    assert len(names) > 100
    return names


PATTERN = st.lists(
    st.one_of(
        st.sampled_from("*?[]^\\-!"),
        st.sampled_from("aelmnopsvyxMAS-"),
        st.sampled_from(["[a-m]", "[^a-m]", "[z-a]", "[]", "[^]", "[a-", "[\\]-z]"]),
        st.sampled_from(["[Z-a]", "[A-m]", "[a-M]"]),
        st.sampled_from(["max", "*-", "log", "\\*"]),
    ),
    max_size=8,
).map("".join)


@SETTINGS
@given(pattern=PATTERN)
def test_patterns(server: Server, config_names: list[bytes], pattern: str) -> None:
    if not any(special in pattern for special in "[*?"):
        pattern += "*"
    reply = server([b"CONFIG", b"GET", pattern.encode()])
    names = reply.split(b"\r\n")[2::4]
    assert sorted(name for name in config_names if matches(pattern.encode(), name)) == sorted(names)
