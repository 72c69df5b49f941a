"""Commands that go to every master: what each is sent, and how real servers' replies make one."""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha1
from typing import cast

import pytest

from lab.redis_cluster import RedisServer
from proxy.address import Address
from proxy.answers import HANDLERS, Client, Context, answer
from proxy.answers.servers import UNREACHED
from proxy.commands import TABLE
from proxy.control import pack
from proxy.fanout import Fanout, PartReply
from proxy.pubsub import Kind, Tally
from proxy.reply import OK, array, bulk, error, integer, null
from proxy.resp import ReplyScanner, RequestScanner
from proxy.resp_values import content, elements, header, number
from proxy.topology import Shard, Topology

CLUSTERDOWN = b"-CLUSTERDOWN no server of this cluster could be reached yet; the proxy keeps trying\r\n"
KILLED = error("Script killed by user with SCRIPT KILL.", "KILLED")
NOTBUSY = error("No scripts in execution right now.", "NOTBUSY")
UNKILLABLE = error("Sorry the script already executed write commands against the dataset.", "UNKILLABLE")
DOWN = error("server 10.0.0.3:6379: could not be connected to in time")
LIBRARY = "#!lua name={0}\nredis.register_function('{0}', function() return 1 end)"


@dataclass
class Subscriptions:
    tally: Tally = field(default_factory=Tally)


@dataclass
class Known:
    """What these commands ask of their context."""

    topology: Topology | None
    hub: Subscriptions = field(default_factory=Subscriptions)


def topology(*ports: int) -> Topology:
    """A master on each port, the first with the lowest slots, and one without slots."""
    empty = Shard(Address("127.0.0.1", 1), ())
    ranges = [
        ((100 * number, 100 * number + 9), (5000 + number, 5000 + number)) for number in range(len(ports))
    ]
    return Topology(
        (
            empty,
            *(Shard(Address("127.0.0.1", port), owned) for port, owned in zip(ports, ranges, strict=True)),
        )
    )


def ask(words: str | list[str | bytes], context: Known | None = None, protocol: int = 2) -> Fanout:
    args = words.split() if isinstance(words, str) else words
    found = answer(
        Client(1, "127.0.0.1:5555", "127.0.0.1:6379", protocol=protocol),
        cast(Context, context or Known(topology(1, 2, 3))),
        [arg.encode() if isinstance(arg, str) else arg for arg in args],
    )
    assert isinstance(found, Fanout), found
    return found


def merge(words: str, *replies: bytes, context: Known | None = None) -> bytes:
    """The reply to a command when these are the masters'."""
    merged = ask(words, context).merge(
        [PartReply(f"127.0.0.1:{n}", reply) for n, reply in enumerate(replies, 1)]
    )
    assert isinstance(merged, bytes)
    assert ReplyScanner().feed(merged) == [merged], "not one whole reply"
    return merged


# --- what is sent ----------------------------------------------------------------------------

# What goes to all masters: whether it may be sent twice, and whether on connections of its own.
EVERYWHERE = {
    "DBSIZE": (True, False),
    "KEYS a*": (True, False),
    "FLUSHALL": (False, False),
    "FLUSHALL ASYNC": (False, False),
    "FLUSHDB SYNC": (False, False),
    "RANDOMKEY": (True, False),
    "WAIT 1 100": (False, True),
    "WAITAOF 0 1 100": (False, True),
    "LASTSAVE": (True, False),
    "MEMORY PURGE": (True, False),
    "SCRIPT LOAD x": (True, False),
    "SCRIPT EXISTS a b": (True, False),
    "SCRIPT FLUSH": (False, False),
    "SCRIPT KILL": (False, True),
    "FUNCTION LOAD REPLACE x": (False, False),
    "FUNCTION DELETE x": (False, False),
    "FUNCTION FLUSH ASYNC": (False, False),
    "FUNCTION KILL": (False, True),
    "FUNCTION LIST LIBRARYNAME a": (True, False),
    "FUNCTION STATS": (False, True),
    "FUNCTION RESTORE x": (False, False),
    "PUBSUB CHANNELS": (True, False),
    "PUBSUB NUMSUB a": (True, False),
    "PUBSUB NUMPAT": (True, False),
    "PUBSUB SHARDCHANNELS a*": (True, False),
    "PUBSUB SHARDNUMSUB a": (True, False),
}


@pytest.mark.parametrize("command", EVERYWHERE)
def test_every_master_with_slots_is_sent_the_command_as_it_is(command: str) -> None:
    fanout = ask(command)
    assert [part.slot for part in fanout.parts] == [0, 100, 200]
    for part in fanout.parts:
        assert RequestScanner().feed(part.request) == [command.encode().split()]
    assert (fanout.readonly, fanout.blocking) == EVERYWHERE[command]


@pytest.mark.parametrize("command", [*EVERYWHERE, "FUNCTION DUMP"])
def test_no_server_is_known_yet(command: str) -> None:
    for unknown in (None, Topology(()), topology()):
        found = answer(
            Client(1, "", ""), cast(Context, Known(unknown)), [word.encode() for word in command.split()]
        )
        assert found == UNREACHED == CLUSTERDOWN


@pytest.mark.parametrize("command", [*EVERYWHERE, "FUNCTION DUMP"])
def test_arities_are_the_tables(command: str) -> None:
    words = command.lower().split()
    name = next(name for name in ("|".join(words[:2]), words[0]) if name.encode() in HANDLERS)
    known = TABLE.lookup(name)
    if known is not None:
        assert HANDLERS[name.encode()][0] == known.arity


@pytest.mark.parametrize("command", sorted(set(EVERYWHERE) - {"SCRIPT KILL", "FUNCTION KILL"}))
def test_the_first_error_is_the_reply(command: str) -> None:
    assert merge(command, OK, DOWN, error("other")) == DOWN
    assert merge(command, OK, b"!5\r\nERR x\r\n", OK) == b"!5\r\nERR x\r\n"


def test_one_master_is_enough_for_a_dump() -> None:
    fanout = ask("FUNCTION DUMP")
    assert [part.slot for part in fanout.parts] == [0]
    assert fanout.readonly
    assert fanout.merge([PartReply("127.0.0.1:1", bulk(b"dump"))]) == bulk(b"dump")


# --- what replies make -----------------------------------------------------------------------


def test_wait() -> None:
    assert merge("WAIT 2 0", integer(2), integer(1), integer(3)) == integer(1)
    pair = [array([integer(1), integer(2)]), array([integer(0), integer(3)]), array([integer(1), integer(1)])]
    assert merge("WAITAOF 1 1 0", *pair) == array([integer(0), integer(1)])


def test_lastsave_is_the_oldest() -> None:
    assert merge("LASTSAVE", integer(30), integer(10), integer(20)) == integer(10)


@pytest.mark.parametrize("protocol", [2, 3])
def test_randomkey_is_one_of_any_master(protocol: int) -> None:
    random.seed(1)
    nothing = null(protocol)
    found = {merge("RANDOMKEY", bulk("a"), nothing, bulk("b")) for _ in range(50)}
    assert found == {bulk("a"), bulk("b")}
    assert merge("RANDOMKEY", nothing, nothing, nothing) == nothing


@pytest.mark.parametrize("command", ["SCRIPT KILL", "FUNCTION KILL"])
def test_kill(command: str) -> None:
    assert merge(command, NOTBUSY, NOTBUSY, NOTBUSY) == NOTBUSY
    assert merge(command, NOTBUSY, OK, NOTBUSY) == OK
    assert merge(command, OK, NOTBUSY, UNKILLABLE) == UNKILLABLE
    assert merge(command, NOTBUSY, OK, DOWN) == OK
    assert merge(command, NOTBUSY, DOWN, NOTBUSY) == DOWN


@pytest.mark.parametrize("protocol", [2, 3])
def test_function_stats_is_of_the_master_that_runs_one(protocol: int) -> None:
    def stats(running: bytes) -> bytes:
        start = b"%2\r\n" if protocol == 3 else b"*4\r\n"
        return start + bulk("running_script") + running + bulk("engines") + b"*0\r\n"

    idle, busy = stats(null(protocol)), stats(array([bulk("name"), bulk("f")]))
    assert merge("FUNCTION STATS", idle, busy, idle) == busy
    assert merge("FUNCTION STATS", idle, idle, idle) == idle


def test_subscribers_of_this_proxy_are_counted_one_by_one() -> None:
    """Servers count one for each of our connections, on which there may be many sessions' subscriptions."""
    context = Known(topology(1, 2, 3))
    tally = context.hub.tally
    tally.hubs(Kind.CHANNEL, b"a", "127.0.0.1:2", 1)
    tally.sessions(Kind.CHANNEL, b"a", 5)
    tally.hubs(Kind.SHARD, b"b", "127.0.0.1:3", 2)
    tally.sessions(Kind.SHARD, b"b", 7)
    counts = [array([bulk("a"), integer(a), bulk("b"), integer(b)]) for a, b in ((0, 0), (3, 1), (0, 2))]
    assert merge("PUBSUB NUMSUB a b", *counts, context=context) == array(
        [bulk("a"), integer(3 - 1 + 5), bulk("b"), integer(3)]
    )
    assert merge("PUBSUB SHARDNUMSUB a b", *counts, context=context) == array(
        [bulk("a"), integer(3), bulk("b"), integer(3 - 2 + 7)]
    )


# --- real servers ----------------------------------------------------------------------------


class Servers:
    """Three plain servers in the place of a cluster's masters."""

    def __init__(self, servers: list[RedisServer], protocol: int) -> None:
        self.servers = servers
        self.protocol = protocol
        self.context = Known(topology(*(server.port for server in servers)))
        self.sockets = [socket.create_connection((server.host, server.port), 10) for server in servers]
        for index in range(len(servers)):
            self.exchange(index, pack("HELLO", protocol))

    def exchange(self, index: int, request: bytes) -> bytes:
        """The reply's own bytes."""
        scanner = ReplyScanner()
        self.sockets[index].sendall(request)
        while True:
            data = self.sockets[index].recv(65536)
            assert data
            if found := scanner.feed(data):
                return found[0]

    def __call__(self, *words: str | bytes) -> bytes:
        """What a client gets."""
        args = words[0].split() if len(words) == 1 and isinstance(words[0], str) else list(words)
        fanout = ask([*args], self.context, self.protocol)
        replies = [
            PartReply(
                str(self.servers[part.slot // 100].address), self.exchange(part.slot // 100, part.request)
            )
            for part in fanout.parts
        ]
        merged = fanout.merge(replies)
        assert isinstance(merged, bytes)
        assert ReplyScanner().feed(merged) == [merged], "not one whole reply"
        return merged

    def close(self) -> None:
        for connection in self.sockets:
            connection.close()


@pytest.fixture(scope="module")
def running() -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(3)]


@pytest.fixture(params=[2, 3])
def servers(running: list[RedisServer], request: pytest.FixtureRequest) -> Iterator[Servers]:
    for server in running:
        for command in ("FLUSHALL", "SCRIPT FLUSH", "FUNCTION FLUSH"):
            server.call(*command.split())
    found = Servers(running, request.param)
    yield found
    found.close()


def test_keys_of_all(servers: Servers, running: list[RedisServer]) -> None:
    nothing = null(servers.protocol)
    assert (servers("DBSIZE"), servers("KEYS *"), servers("RANDOMKEY")) == (integer(0), array([]), nothing)
    names = [b"a:1", b"a:\r\n2", b"", b"b:1", b"a:3"]
    for place, name in enumerate(names):
        running[place % 2].call("SET", name, "x")
    assert servers("DBSIZE") == integer(5)
    assert sorted(map(content, elements(servers("KEYS *")))) == sorted(names)
    assert sorted(map(content, elements(servers("KEYS a:*")))) == sorted(names[:2] + names[4:])
    assert content(servers("RANDOMKEY")) in names
    assert servers("FLUSHALL nonsense") == error("syntax error")
    assert servers("DBSIZE") == integer(5)
    assert servers("FLUSHDB ASYNC") == OK
    assert servers("DBSIZE") == integer(0)


def test_many_keys(servers: Servers, running: list[RedisServer]) -> None:
    for place, server in enumerate(running[1:]):
        server.call("MSET", *(word for n in range(5000) for word in (f"key:{place}:{n}", "x")))
    keys = servers("KEYS *")
    assert header(keys)[0] == 10000
    assert set(map(content, elements(keys))) == {
        f"key:{m}:{n}".encode() for m in range(2) for n in range(5000)
    }


def test_a_script_that_one_lacks_does_not_exist(servers: Servers, running: list[RedisServer]) -> None:
    script = "return 1"
    known, other = sha1(script.encode()).hexdigest(), sha1(b"return 2").hexdigest()
    assert servers("SCRIPT", "LOAD", script) == bulk(known)
    assert servers("SCRIPT", "LOAD", "not Lua").startswith(b"-ERR Error compiling script")
    running[0].call("SCRIPT", "LOAD", "return 2")
    assert servers("SCRIPT", "EXISTS", known, other) == array([integer(1), integer(0)])
    assert servers("SCRIPT FLUSH") == OK
    assert servers("SCRIPT", "EXISTS", known, other) == array([integer(0), integer(0)])
    assert servers("SCRIPT KILL") == NOTBUSY


def test_functions(servers: Servers, running: list[RedisServer]) -> None:
    for name in ("one", "two"):
        assert servers("FUNCTION", "LOAD", LIBRARY.format(name)) == bulk(name)
    for server in running:
        assert server.call("FCALL", "one", "0") == 1
    assert servers("FUNCTION", "LOAD", LIBRARY.format("one")) == error("Library 'one' already exists")
    assert servers("FUNCTION", "LOAD", "REPLACE", LIBRARY.format("one")) == bulk("one")

    dump = content(servers("FUNCTION DUMP"))
    assert servers("FUNCTION DELETE one") == OK
    assert servers("FUNCTION DELETE one") == error("Library not found")
    assert servers("FUNCTION", "RESTORE", dump) == error("Library two already exists")
    assert servers("FUNCTION", "RESTORE", dump, "FLUSH") == OK
    for server in running:
        assert server.call("FCALL", "one", "0") == 1
    assert servers("FUNCTION FLUSH") == OK
    assert elements(servers("FUNCTION LIST")) == []
    assert servers("FUNCTION KILL") == NOTBUSY


def test_libraries_are_listed_once(servers: Servers, running: list[RedisServer]) -> None:
    for name, where in (("one", running), ("two", running[1:]), ("three", running[2:])):
        for server in where:
            server.call("FUNCTION", "LOAD", LIBRARY.format(name))
    listed = servers("FUNCTION LIST WITHCODE")
    libraries = elements(listed)
    alone = elements(servers.exchange(2, pack("FUNCTION", "LIST", "WITHCODE")))
    assert sorted(libraries) == sorted(alone)
    assert len(libraries) == 3
    found = servers("FUNCTION LIST LIBRARYNAME tw*")
    assert found == servers.exchange(1, pack("FUNCTION", "LIST", "LIBRARYNAME", "tw*"))
    stats = servers("FUNCTION STATS")
    assert stats == servers.exchange(0, pack("FUNCTION", "STATS"))


def test_pubsub(servers: Servers, running: list[RedisServer]) -> None:
    assert servers("PUBSUB NUMSUB") == array([])
    assert servers("PUBSUB CHANNELS") == servers("PUBSUB SHARDCHANNELS") == array([])
    listeners = [socket.create_connection((server.host, server.port), 10) for server in running]
    for listener, words in zip(
        listeners,
        (["b", "a"], ["a", "c"], ["x", "a"]),
        strict=True,
    ):
        for command, names in (
            ("SUBSCRIBE", words),
            ("SSUBSCRIBE", ["shard"]),
            ("PSUBSCRIBE", [f"{words[0]}*"]),
        ):
            scanner = ReplyScanner()
            listener.sendall(pack(command, *names))
            confirmed = 0
            while confirmed < len(names):
                confirmed += len(scanner.feed(listener.recv(65536)))
    assert servers("PUBSUB CHANNELS") == array([bulk("a"), bulk("b"), bulk("c"), bulk("x")])
    assert servers("PUBSUB CHANNELS [bc]") == array([bulk("b"), bulk("c")])
    assert servers("PUBSUB NUMSUB a y b") == array(
        [bulk("a"), integer(3), bulk("y"), integer(0), bulk("b"), integer(1)]
    )
    assert servers("PUBSUB SHARDCHANNELS") == array([bulk("shard")])
    assert servers("PUBSUB SHARDNUMSUB shard a") == array([bulk("shard"), integer(3), bulk("a"), integer(0)])
    assert servers("PUBSUB NUMPAT") == integer(3)
    for listener in listeners:
        listener.close()


def test_what_servers_alone_know(servers: Servers) -> None:
    assert servers("MEMORY PURGE") == OK
    assert servers("WAIT 0 0") == integer(0)
    assert servers("WAIT x 0") == error("value is not an integer or out of range")
    assert servers("WAITAOF 0 0 0").startswith(b"-ERR unknown command")  # before 7.2
    assert number(servers("LASTSAVE")) > 1_600_000_000


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"*-1\r\n", b"$-1\r\n", b"*2\r\n:1\r\n", b":1\r\n"])
def test_what_is_no_array_has_no_elements(reply: bytes) -> None:
    with pytest.raises(ValueError, match=r"not an array|invalid literal|elements instead"):
        elements(reply)
