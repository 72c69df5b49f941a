"""The commands of publish and subscribe, and who counts as a receiver; compared with a real server."""

import shutil
import socket
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.redis_cluster import RedisServer
from proxy.answers import HANDLERS, Client, Context
from proxy.answers.subscriptions import subscribed_ping
from proxy.fanout import Answer, Fanout, PartReply, Pending
from proxy.glob import matches
from proxy.pubsub import PUBSUB_SLOT, Hub, Kind, Tally
from proxy.resp import ReplyScanner
from tests.unit.pubsub_servers import (
    CHANNEL,
    A,
    B,
    C,
    Servers,
    Told,
    frame,
    new_client,
    subscribe,
)


@pytest.fixture
def servers() -> Servers:
    return Servers([A, B, C])


def test_receivers_are_this_process_sessions_and_those_of_others() -> None:
    tally = Tally()
    assert not tally
    assert tally.receivers(b"c", A, 2) == 2
    for _ in range(2):  # two workers at A, and one elsewhere
        tally.hubs(Kind.CHANNEL, b"c", A, 1)
    tally.hubs(Kind.CHANNEL, b"c", B, 1)
    tally.sessions(Kind.CHANNEL, b"c", 10)
    tally.hubs(Kind.PATTERN, b"C*", A, 1)  # does not match
    tally.sessions(Kind.PATTERN, b"C*", 100)
    tally.hubs(Kind.PATTERN, b"[c]*", B, 1)
    tally.sessions(Kind.PATTERN, b"[c]*", 20)
    tally.sessions(Kind.SHARD, b"c", 5)
    assert tally
    assert tally.receivers(b"c", A, 3) == 3 - 2 + 10 + 20
    assert tally.receivers(b"c", B, 2) == 2 - 2 + 10 + 20
    assert tally.receivers(b"c", A, 1, Kind.SHARD) == 6
    assert tally.surplus(Kind.CHANNEL, b"c", [A, B, C]) == 7
    assert tally.receivers(b"d", A, 0) == 0
    tally.hubs(Kind.CHANNEL, b"d", A, 1)
    assert tally.receivers(b"d", A, 0) == 0  # it was subscribed since


# --- handlers --------------------------------------------------------------------------------------


def ask(servers: Servers, client: Client, *args: bytes) -> Answer:
    context = cast("Context", SimpleNamespace(hub=servers.hub))
    arity, handler = HANDLERS[args[0].lower()]
    assert arity == len(args) or -arity <= len(args)
    return handler(client, context, list(args))


@pytest.mark.parametrize("kind", Kind)
def test_commands_subscribe_and_unsubscribe(servers: Servers, kind: Kind) -> None:
    client = new_client(1)
    pending = ask(servers, client, kind.subscribe.upper(), b"{x}a", b"{x}b")
    assert isinstance(pending, Pending)
    told = Told()
    pending.start(told.append)
    servers.run()
    assert told == [frame(kind.subscribe, "{x}a", 1) + frame(kind.subscribe, "{x}b", 2)]
    assert ask(servers, client, kind.unsubscribe, b"{x}b") == frame(kind.unsubscribe, "{x}b", 1)
    assert ask(servers, client, kind.unsubscribe) == frame(kind.unsubscribe, "{x}a", 0)
    assert ask(servers, client, kind.unsubscribe) == frame(kind.unsubscribe, None, 0)


def test_shard_channels_of_one_command_share_a_slot(servers: Servers) -> None:
    answer = ask(servers, new_client(1), b"SSUBSCRIBE", b"a", b"b")
    assert answer == b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"


def test_publish_counts_sessions(servers: Servers) -> None:
    answer = ask(servers, new_client(1), b"PUBLISH", CHANNEL, b"x")
    assert isinstance(answer, Fanout)
    ((slot, request),) = answer.parts
    assert (slot, request) == (PUBSUB_SLOT, frame("PUBLISH", CHANNEL, "x"))
    assert answer.merge([PartReply(A, b":4\r\n")]) == b":4\r\n"
    for number in (1, 2, 3):
        subscribe(servers, new_client(number), Kind.CHANNEL, CHANNEL)
        subscribe(servers, new_client(number), Kind.SHARD, CHANNEL)
    subscribe(servers, new_client(4), Kind.SHARD, CHANNEL)
    servers.run()
    assert answer.merge([PartReply(A, b":2\r\n")]) == b":4\r\n"
    assert answer.merge([PartReply("", b"-ERR x\r\n")]) == b"-ERR x\r\n"
    sharded = ask(servers, new_client(1), b"SPUBLISH", CHANNEL, b"x")
    assert isinstance(sharded, Fanout)
    assert sharded.merge([PartReply(A, b":1\r\n")]) == b":4\r\n"


# --- beside a real server --------------------------------------------------------------------------

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


class Raw:
    """A connection that shows replies as they are."""

    def __init__(self, server: RedisServer) -> None:
        self.socket = socket.create_connection((server.host, server.port), timeout=10)
        self.scanner = ReplyScanner()
        self.replies: deque[bytes] = deque()

    def send(self, *args: bytes) -> None:
        self.socket.sendall(frame(*args))

    def read(self) -> bytes:
        while not self.replies:
            self.replies.extend(self.scanner.feed(self.socket.recv(65536)))
        return self.replies.popleft()

    def call(self, *args: bytes) -> bytes:
        self.send(*args)
        return self.read()


class Proxied:
    """A session of a hub that has a real server behind it."""

    def __init__(self, server: RedisServer, protocol: int) -> None:
        self.upstream = Raw(server)
        self.received: deque[bytes] = deque()
        self.client = new_client(1, protocol)
        self.name = str(server.address)
        self.hub = Hub(
            send=lambda _, data: self.upstream.socket.sendall(data),
            push=lambda _, data: self.received.append(data),
            owner=lambda _: self.name,
            masters=lambda: [self.name],
            tally=Tally(),
        )
        self.hub.opened(self.name)
        self.context = cast("Context", SimpleNamespace(hub=self.hub))

    def send(self, *args: bytes) -> None:
        answer = HANDLERS[args[0]][1](self.client, self.context, list(args))
        if isinstance(answer, bytes):
            self.received.extend(ReplyScanner().feed(answer))
        elif isinstance(answer, Pending):
            answer.start(lambda reply: self.received.extend(ReplyScanner().feed(reply)))

    def read(self) -> bytes:
        while not self.received:
            self.hub.received(self.name, self.upstream.read())
        return self.received.popleft()


@needs_redis
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_session_reads_what_a_connection_to_redis_reads(redis: RedisServer, protocol: int) -> None:
    direct, proxied, publisher = Raw(redis), Proxied(redis, protocol), Raw(redis)
    if protocol == 3:
        direct.call(b"HELLO", b"3")
    script: list[tuple[int, list[bytes]]] = [
        (1, [b"unsubscribe"]),
        (1, [b"punsubscribe"]),
        (2, [b"sunsubscribe", b"{a}x", b"{a}y"]),
        (3, [b"subscribe", b"a", b"b", b"a"]),
        (2, [b"psubscribe", b"a*", b""]),
        (2, [b"ssubscribe", b"{a}x", b"{a}y"]),
        (2, [b"PUBLISH", b"a", b"one\r\n\0"]),
        (1, [b"PUBLISH", b"ab", b""]),
        (1, [b"SPUBLISH", b"{a}x", b"three"]),
        (1, [b"sunsubscribe", b"{a}y"]),
        (1, [b"sunsubscribe"]),
        (1, [b"sunsubscribe", b"a"]),
        (2, [b"unsubscribe", b"b", b"none"]),
        (2, [b"PUBLISH", b"a", b"x" * 100000]),
        (1, [b"unsubscribe"]),
        (1, [b"unsubscribe"]),
        (1, [b"punsubscribe", b"a*"]),
        (1, [b"punsubscribe"]),
        (1, [b"punsubscribe"]),
    ]
    for replies, args in script:
        if args[0].endswith(b"PUBLISH"):
            publisher.call(*args)
        else:
            direct.send(*args)
            proxied.send(*args)
        for _ in range(replies):
            assert proxied.read() == direct.read(), args
    assert proxied.client.subscriptions == 0
    ping = [b"PING", b"x"]
    if protocol == 2:
        direct.send(b"subscribe", b"a")
        direct.read()
        assert subscribed_ping(ping) == direct.call(*ping)
        assert subscribed_ping([b"ping"]) == direct.call(b"ping")
        assert subscribed_ping([*ping, b"y"]) == direct.call(*ping, b"y")


@needs_redis
def test_patterns_match_what_they_match_in_redis(redis: RedisServer) -> None:
    """In PUBSUB CHANNELS, which goes by the same function as PSUBSCRIBE."""
    texts = [b"", b"a", b"A", b"b", b"ab", b"Ab", b"aB", b"a-b", b"]", b"^", b"\\", b"[a]", b"aab", b"abab"]
    listener, asker = Raw(redis), Raw(redis)
    for text in texts:
        listener.call(b"SUBSCRIBE", text)

    @settings(deadline=None, max_examples=1000)
    @given(st.text("aAbB-[]^\\*?", max_size=8).map(str.encode))
    def compare(pattern: bytes) -> None:
        reader = hiredis.Reader()
        reader.feed(asker.call(b"PUBSUB", b"CHANNELS", pattern))
        assert {text for text in texts if matches(pattern, text, nocase=False)} == set(
            cast("list[bytes]", reader.gets())
        )

    compare()


def test_patterns_of_any_length_match() -> None:
    long = b"?" * 1000
    assert matches(long, b"x" * 1000, nocase=False)
    assert not matches(long + b"Y", b"x" * 1000 + b"y", nocase=False)
    assert matches(long + b"Y", b"x" * 1000 + b"y")
    assert not matches(b"a*A", b"aa", nocase=False)
