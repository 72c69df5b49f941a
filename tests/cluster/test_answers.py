"""What the proxy answers itself, byte for byte against a plain redis-server, in both protocols."""

import shlex
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.processes import free_ports, wait_until
from lab.redis_cluster import RedisServer
from proxy.address import Address
from proxy.answers import (
    SECTIONS,
    Client,
    Facts,
    SessionRow,
    slow_arguments,
    unknown_command,
    unknown_subcommand,
    wrong_arity,
)
from proxy.answers.config import redis_settings
from proxy.commands import SERVER
from proxy.glob import matches
from proxy.reply import array, bulk
from proxy.resp import ReplyScanner
from proxy.resp_values import content, elements
from proxy.topology import Shard, Topology
from tests.unit.context import StubContext, StubPlane, cluster_config, reply_to, user

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

    def send(self, args: Args) -> None:
        self.socket.sendall(array([bulk(arg) for arg in args]))

    def __call__(self, args: Args) -> bytes:
        self.send(args)
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


class Ours:
    """Our answers to one client, the only session there is; it looks to us as it does to the server."""

    def __init__(self, server: Server, **config: Any) -> None:
        host, port = server.socket.getsockname()
        listener, own_port = server.socket.getpeername()
        facts = Facts(
            redis_version=SERVER.rpartition(" ")[2],
            proxy_version="1",
            started=time.time(),
            tcp_port=own_port,
            connected_clients=1,
            max_clients=10000,
            max_bulk_length=536870912,
        )
        number = int(server([b"CLIENT", b"ID"])[1:])
        self.client = Client(number, f"{host}:{port}", f"{listener}:{own_port}")
        row = SessionRow(self.client, 0, 0, 0, 0, -1, False, False, "client|list")
        self.context = StubContext(cluster_config(**config), facts=facts, planes=[StubPlane([row])])

    def __call__(self, args: Args) -> bytes:
        return reply_to(self.client, self.context, args)


@pytest.fixture(params=[2, 3])
def both(request: pytest.FixtureRequest, server: Server) -> tuple[Server, Ours]:
    """The real server and our answers, in the same state, by RESP2 and by RESP3."""
    ours = Ours(server)
    if request.param == 3:
        assert ours([b"HELLO", b"3"]) == server([b"HELLO", b"3"])
    return server, ours


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
HELLO 3 AUTH a b SETNAME y | CLIENT GETNAME | HELLO 3 FOO SETNAME z | CLIENT GETNAME
HELLO 3 'F\\r\\nO\\x00x' | HELLO
HELLO 2 AUTH default SETNAME x | HELLO 2 SETNAME AUTH default x
HELLO 2 AUTH default x SETNAME
CLIENT | CLIENT FOO | CLIENT 'Foo\\r\\nb\\x00ar' | CLIENT '' | client foo bar baz | CLIENT ID | CLIENT ID a
CLIENT SETNAME | CLIENT SETNAME a b | CLIENT SETNAME 'a b' | CLIENT SETNAME a\\x00b
CLIENT SETNAME \\xff | CLIENT SETNAME \\x7f | CLIENT SETNAME x | CLIENT GETNAME
CLIENT SETNAME '' | CLIENT GETNAME | CLIENT SETNAME '~!' | CLIENT GETNAME | CLIENT SETNAME '' | CLIENT GETNAME
CLIENT GETNAME a | CLIENT INFO a | CLIENT HELP a | CLIENT NO-EVICT | CLIENT NO-EVICT on | CLIENT no-evict OFF
CLIENT NO-EVICT x | CLIENT NO-EVICT on x | CLIENT MAINT_NOTIFICATIONS ON
CLIENT KILL | CLIENT KILL x | CLIENT KILL 127.0.0.1:1 | CLIENT KILL ID | CLIENT KILL ID 0 | CLIENT KILL ID x
CLIENT KILL ID -1 | CLIENT KILL ID 987654321 | CLIENT KILL TYPE foo | CLIENT KILL TYPE 'f\\x00oo'
CLIENT KILL TYPE master | CLIENT KILL TYPE replica | CLIENT KILL type PUBSUB | CLIENT KILL USER foo
CLIENT KILL USER default ID 987654321 | CLIENT KILL USER DEFAULT ID 1 | CLIENT KILL SKIPME x
CLIENT KILL SKIPME yes x | CLIENT KILL ID 0 x | CLIENT KILL ID 987654321 x | CLIENT KILL x ID 0
CLIENT KILL ADDR 127.0.0.1:1 LADDR x | CLIENT KILL FOO bar | CLIENT KILL skipme NO ID 987654321
CLIENT LIST TYPE | CLIENT LIST TYPE foo | CLIENT LIST ID | CLIENT LIST ID x | CLIENT LIST ID 1 x
CLIENT LIST ID 987654321 | CLIENT LIST ID -1 987654321 | CLIENT LIST TYPE master | CLIENT LIST TYPE slave
CLIENT LIST foo | CLIENT LIST TYPE normal ID 1 | CLIENT LIST TYPE normal x
CLIENT PAUSE | CLIENT PAUSE x | CLIENT PAUSE -1 | CLIENT PAUSE 0 | CLIENT PAUSE 0 write | CLIENT PAUSE 0 foo
CLIENT PAUSE x foo | CLIENT PAUSE 99999999999999999999 | CLIENT PAUSE 0 all x | CLIENT UNPAUSE
CLIENT UNPAUSE x | CLIENT UNBLOCK | CLIENT UNBLOCK x | CLIENT UNBLOCK 987654321 | CLIENT UNBLOCK -3 ERROR
CLIENT UNBLOCK 987654321 timeout | CLIENT UNBLOCK 1 foo | CLIENT UNBLOCK x foo | CLIENT UNBLOCK 1 error x
CLIENT REPLY | CLIENT REPLY foo | CLIENT REPLY on | CLIENT REPLY on x
CLIENT REPLY SKIP | CLIENT REPLY ON | CLIENT REPLY OFF | CLIENT REPLY SKIP | CLIENT REPLY ON | CLIENT REPLY ON
CLIENT GETREDIR | CLIENT GETREDIR x | CLIENT TRACKINGINFO | CLIENT TRACKINGINFO x
ROLE | ROLE x | RESET x | CLIENT SETNAME a | RESET | CLIENT GETNAME | HELLO | HELLO 3 | RESET | HELLO
ACL WHOAMI | ACL WHOAMI x | ACL FOO | ACL
SLOWLOG | SLOWLOG LEN | SLOWLOG LEN x | SLOWLOG RESET | SLOWLOG RESET x | SLOWLOG GET | SLOWLOG GET -2
SLOWLOG GET x | SLOWLOG GET 0 | SLOWLOG GET 5 | SLOWLOG GET -1 | SLOWLOG GET 1 2 | SLOWLOG Get 1 2
SLOWLOG FOO | SLOWLOG | LATENCY
LATENCY LATEST | LATENCY LATEST x | LATENCY HISTORY | LATENCY HISTORY x | LATENCY RESET
LATENCY RESET a b | LATENCY GRAPH | LATENCY GRAPH ab | LATENCY GRAPH 'a\\r\\nb' | LATENCY DOCTOR x
LATENCY FOO | LATENCY HISTOGRAM foo | LATENCY HISTOGRAM getex lcs foo
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
def test_sessions(both: tuple[Server, Ours], session: str) -> None:
    server, ours = both
    for line in session.split(" | "):
        args = words(line)
        reply = ours(args)
        if reply:
            assert reply == server(args), line
        else:
            server.send(args)  # the next reply shows that this one had none


def test_config_values_that_are_the_same_everywhere(both: tuple[Server, Ours]) -> None:
    server, ours = both
    own = {"databases", "save", "appendonly", "maxclients", "slowlog-log-slower-than"}
    names = redis_settings(ours.context).keys()
    for name in names - own:
        args = [b"CONFIG", b"GET", name.encode()]
        assert ours(args) == server(args), name
    for name in own:
        assert server([b"CONFIG", b"GET", name.encode()]).count(b"\r\n") == 5, f"Redis has no {name}"


def test_our_own_settings_are_none_of_redis(both: tuple[Server, Ours]) -> None:
    server, ours = both
    names = {reply.split(b"\r\n")[1] for reply in elements(ours([b"CONFIG", b"GET", b"*"]))[::2]}
    theirs = {reply.split(b"\r\n")[1] for reply in elements(server([b"CONFIG", b"GET", b"*"]))[::2]}
    assert {name.decode() for name in names & theirs} == redis_settings(ours.context).keys()


def test_quit(both: tuple[Server, Ours]) -> None:
    server, ours = both
    assert ours([b"QUIT", b"x"]) == server([b"QUIT", b"x"])
    assert ours.client.closing
    assert server.closed


@pytest.mark.parametrize("line", ["CLIENT KILL {}", "CLIENT KILL ADDR {} SKIPME no", "CLIENT KILL ADDR {}"])
def test_killing_oneself(both: tuple[Server, Ours], line: str) -> None:
    server, ours = both
    args = words(line.format(ours.client.address))
    assert ours(args) == server(args)
    assert ours.client.closing is not line.endswith("ADDR {}")
    if ours.client.closing:
        assert server.closed


# --- authentication ----------------------------------------------------------------------------

PROTECTED = """
HELLO | HELLO 3 | HELLO 2 SETNAME x | HELLO 4 | HELLO x | HELLO 3 FOO | HELLO 3 AUTH a
AUTH | AUTH a | AUTH '' | AUTH default a | AUTH bob | AUTH bob a | AUTH bob secret | AUTH nobody builder
AUTH a b c | HELLO 3 AUTH bob a | HELLO 3 AUTH default builder | RESET | AUTH secret | ACL WHOAMI | HELLO 3
AUTH default secret | AUTH bob builder | ACL WHOAMI | AUTH bob wrong | ACL WHOAMI | AUTH wrong | HELLO | RESET
HELLO | HELLO 3 AUTH bob builder SETNAME x | ACL WHOAMI | CLIENT GETNAME | HELLO 2 AUTH default x
ACL WHOAMI | HELLO 2 AUTH default secret | ACL WHOAMI | CLIENT KILL USER nobody | CLIENT KILL USER bob
CLIENT KILL USER default ID 987654321 | RESET | HELLO | AUTH BOB builder | AUTH bob builder | RESET | HELLO 2
""".strip().replace("\n", " | ")


@pytest.fixture
def protected() -> Iterator[RedisServer]:
    with RedisServer(password="secret") as running:
        running.call("ACL", "SETUSER", "bob", "on", ">builder", "~*", "&*", "+@all")
        yield running


def test_users(protected: RedisServer) -> None:
    server = Server(protected.address.host, protected.address.port)
    server([b"AUTH", b"secret"])
    ours = Ours(server, client_password="secret", client_users=(user("bob", "builder"),))
    server([b"RESET"])
    ours.client.authenticated = False
    for line in PROTECTED.split(" | "):
        args = words(line)
        assert ours(args) == server(args), line
    server.socket.close()


def test_a_default_user_that_is_off(protected: RedisServer) -> None:
    protected.call("ACL", "SETUSER", "default", "off")
    protected.password = ""  # of no use any more
    context = StubContext(cluster_config(client_users=(user("bob", "builder"),)))
    server = Server(protected.address.host, protected.address.port)
    client = Client(1, "", "", authenticated=False)
    for line in ("AUTH secret", "AUTH ''", "AUTH default secret", "HELLO 3 AUTH default secret", "HELLO 3"):
        args = words(line)
        assert reply_to(client, context, args) == server(args), line
    server.socket.close()


# --- shapes ------------------------------------------------------------------------------------


def shape(reply: bytes) -> list[bytes]:
    """The types and line structure of a reply, without its values."""
    return [line[:1] for line in reply.split(b"\r\n")]


def test_time_has_the_same_shape(both: tuple[Server, Ours]) -> None:
    server, ours = both
    own, theirs = ours([b"TIME"]), server([b"TIME"])
    assert shape(own) == shape(theirs)
    assert own.split(b"\r\n")[1:3][0] == theirs.split(b"\r\n")[1:3][0]


def test_help_has_the_same_shape(both: tuple[Server, Ours]) -> None:
    server, ours = both
    for container in (b"CLIENT", b"CONFIG", b"SLOWLOG", b"LATENCY"):
        own, theirs = ours([container, b"HELP"]), server([container, b"HELP"])
        assert set(shape(own)) == set(shape(theirs))
        assert own.split(b" ")[:3] == [own.split(b"+")[0] + b"+" + container, b"<subcommand>", b"[<arg>"]


@pytest.mark.parametrize("line", ["CLIENT INFO", "CLIENT LIST", "CLIENT LIST ID {}"])
def test_clients_have_the_servers_fields_in_their_order(both: tuple[Server, Ours], line: str) -> None:
    server, ours = both
    args = words(line.format(ours.client.id))
    own, theirs = ours(args), server(args)
    assert own[:1] == theirs[:1]
    assert own[-3:] == theirs[-3:]

    def fields(reply: bytes) -> dict[bytes, bytes]:
        lines = reply.partition(b"\r\n")[2].removesuffix(b"\n\r\n").removeprefix(b"txt:").split(b"\n")
        found = [dict(word.split(b"=", 1) for word in line.split(b" ")) for line in lines]
        return next(line for line in found if line[b"id"] == b"%d" % ours.client.id)

    newer = [b"watch", b"lib-name", b"lib-ver"]  # Redis 7.2 and 7.4
    assert [name for name in fields(own) if name not in newer] == list(fields(theirs))
    for name in (b"id", b"addr", b"laddr", b"name", b"flags", b"multi", b"cmd", b"user", b"redir", b"resp"):
        assert fields(own)[name] == fields(theirs)[name], name


@pytest.mark.parametrize(
    "args",
    [
        [b"ECHO", b"a"],
        [b"ECHO", b""],
        [b"ECHO", b"x" * 128],
        [b"ECHO", b"x" * 129],
        [b"EXISTS", *[b"k"] * 31],
        [b"EXISTS", *[b"k"] * 32],
        [b"EXISTS", *[b"k"] * 50],
    ],
)
def test_slow_commands_as_in_the_servers_log(server: Server, args: Args) -> None:
    (_, before) = elements(server([b"CONFIG", b"GET", b"slowlog-log-slower-than"]))
    server([b"CONFIG", b"SET", b"slowlog-log-slower-than", b"0"])
    server(args)
    server([b"CONFIG", b"SET", b"slowlog-log-slower-than", content(before)])
    (entry,) = elements(server([b"SLOWLOG", b"GET", b"1"]))
    server([b"SLOWLOG", b"RESET"])
    fields = elements(entry)
    assert [field[:1] for field in fields] == [b":", b":", b":", b"*", b"$", b"$"]
    assert [content(arg) for arg in elements(fields[3])] == slow_arguments(array([bulk(arg) for arg in args]))


def test_histograms_have_the_same_shape(both: tuple[Server, Ours]) -> None:
    server, ours = both
    server([b"CONFIG", b"RESETSTAT"])
    server([b"ECHO", b"a"])
    ours.context.histograms = {"echo": (1, [(100, 0), (250, 1), (500, 1)])}
    args = words("LATENCY HISTOGRAM echo")
    assert shape(ours(args)) == shape(server(args))


# --- CLUSTER -----------------------------------------------------------------------------------

CLUSTER = [
    *("CLUSTER", "CLUSTER FOO", "CLUSTER KEYSLOT", "CLUSTER KEYSLOT a{b}c", "CLUSTER KEYSLOT ''"),
    *("CLUSTER SLOTS", "CLUSTER SLOTS x", "CLUSTER SHARDS", "CLUSTER SHARDS x", "CLUSTER NODES"),
    *("CLUSTER NODES x", "CLUSTER INFO", "CLUSTER INFO x", "CLUSTER MYID", "CLUSTER MYID x"),
    *("CLUSTER COUNTKEYSINSLOT", "CLUSTER COUNTKEYSINSLOT x", "CLUSTER COUNTKEYSINSLOT -1"),
    *("CLUSTER COUNTKEYSINSLOT 16384", "CLUSTER COUNTKEYSINSLOT 15495", "CLUSTER GETKEYSINSLOT 15495"),
    *("CLUSTER GETKEYSINSLOT x 1", "CLUSTER GETKEYSINSLOT 1 x", "CLUSTER GETKEYSINSLOT 1 -1"),
    *("CLUSTER GETKEYSINSLOT 16384 1", "CLUSTER GETKEYSINSLOT -1 x", "CLUSTER GETKEYSINSLOT 15495 10"),
    *("CLUSTER REPLICAS", "CLUSTER REPLICAS x", "CLUSTER REPLICAS ID", "CLUSTER SLAVES ID"),
    *("CLUSTER SLAVES 'x\\r\\n'", "CLUSTER COUNT-FAILURE-REPORTS x", "CLUSTER COUNT-FAILURE-REPORTS ID"),
    *("CLUSTER COUNT-FAILURE-REPORTS", "CLUSTER LINKS", "CLUSTER LINKS x", "HELLO", "INFO cluster"),
    *("READONLY", "READWRITE", "ASKING", "READONLY x", "CONFIG GET cluster-enabled"),
]


@pytest.fixture(scope="module")
def node() -> Iterator[RedisServer]:
    """A cluster of one node that knows its own address."""
    (port,) = free_ports(1, bus=True)
    options = {
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-announce-ip": "127.0.0.1",
    }
    with RedisServer(port=port, options=options) as running:
        running.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        running.call("CLUSTER", "SET-CONFIG-EPOCH", 1)
        wait_until("the cluster is well", lambda: running.state()["cluster_state"] == "ok")
        running.call("SET", "a", "1")
        yield running


@pytest.mark.parametrize("protocol", [b"2", b"3"])
def test_a_cluster_of_one_node(node: RedisServer, protocol: bytes) -> None:
    """The proxy in front of that node, under the same address, is the same to its clients but for its id."""
    server = Server(node.address.host, node.address.port)
    ours = Ours(server, announce_addr=node.address)
    ours.context.topology = Topology((Shard(node.address, ((0, 16383),)),))
    server([b"HELLO", protocol])
    ours([b"HELLO", protocol])
    real_id, own_id = content(server([b"CLUSTER", b"MYID"])), content(ours([b"CLUSTER", b"MYID"]))
    for line in CLUSTER:
        theirs = server([real_id if arg == b"ID" else arg for arg in words(line)])
        args = [own_id if arg == b"ID" else arg for arg in words(line)]
        own = reply_to(ours.client, ours.context, args, {15495: theirs})
        assert own.replace(own_id, real_id) == theirs, line
    assert shape(ours([b"CLUSTER", b"HELP"]))[1:2] == shape(server([b"CLUSTER", b"HELP"]))[1:2]
    server.socket.close()


# --- INFO --------------------------------------------------------------------------------------


def parsed(reply: bytes) -> list[tuple[str, list[str]]]:
    """INFO's sections in their order, with the names of their fields."""
    text = reply.partition(b"\r\n")[2].removesuffix(b"\r\n").removeprefix(b"txt:").decode()
    found = []
    for section in text.split("\r\n\r\n"):
        title, *lines = section.splitlines()
        found.append((title.removeprefix("# "), [line.partition(":")[0] for line in lines]))
    return found


@pytest.mark.parametrize("sections", [[], [b"all"], [b"everything"], [b"default"], [b"cpu", b"Server", b"x"]])
def test_info_is_a_part_of_the_servers(both: tuple[Server, Ours], sections: Args) -> None:
    """Sections and fields in the server's order; none that it does not have but proxy_version."""
    server, ours = both
    server([b"SET", b"a", b"1"])
    theirs = server([b"INFO", *sections])
    ours.context.topology = Topology((Shard(Address("a", 1), ((0, 16383),)),))
    own = reply_to(ours.client, ours.context, [b"INFO", *sections], {0: server([b"INFO"])})
    assert own[:1] == theirs[:1]
    real = dict(parsed(theirs))
    assert [title for title, _ in parsed(own) if title != "Servers"] == [
        title for title in real if title in SECTIONS
    ]
    for title, fields in parsed(own):
        if title == "Servers":
            continue  # ours
        known = [name for name in fields if name != "proxy_version"]
        assert known == [name for name in real[title] if name in known]


def test_info_values_that_clients_act_on(both: tuple[Server, Ours]) -> None:
    server, ours = both
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
        own, theirs = ours([b"INFO"]), server([b"INFO"])
        line = next(line for line in own.split(b"\r\n") if line.startswith(name.encode() + b":"))
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
    client, context = Client(1, "", ""), StubContext()
    if number not in (b"2", b"3"):
        args = [b"HELLO", number]
        assert reply_to(client, context, args) == server(args)
    if number not in [b"%d" % n for n in range(1, 16)]:
        args = [b"SELECT", number]
        assert reply_to(client, context, args) == server(args)


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
