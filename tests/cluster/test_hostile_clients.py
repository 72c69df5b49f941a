"""Clients that send too slowly, too much, or garbage; that do not read; that come and go."""

import random
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster, RedisServer
from proxy.control import pack
from proxy.reply import bulk
from tests.cluster.hostile_client import (
    BUFFERS,
    EVICTED,
    LIMIT,
    SESSIONS,
    TURNED_AWAY,
    Scene,
    exchange,
    reset,
    send_all_it_takes,
    undisturbed,
    until_closed,
    until_the_end,
)
from tests.cluster.hostile_server import MEBIBYTE
from tests.cluster.wire import Wire

OK = b"+OK\r\n"
SILENCE = 1500
"""ms that a client may send nothing, where there is such a limit."""
LARGEST_REQUEST = 100_000


@pytest.fixture(scope="module")
def limited(cluster: RedisCluster) -> Iterator[ProxyProcess]:
    """Memory is short; and few connections are for one client alone, since those are kept for a while."""
    limits = {"threads": 1, "memory_limit": LIMIT}
    with ProxyProcess(cluster.addresses, proxy=limits, cluster={"pinned_connections": 10}) as proxy:
        yield proxy
        log = proxy.log()
        assert proxy.stop() == 0, log


@pytest.fixture
def scene(limited: ProxyProcess) -> Iterator[Scene]:
    with undisturbed(limited) as scene:
        yield scene


@pytest.fixture
def strict(cluster: RedisCluster, new_proxy: Callable[..., ProxyProcess]) -> Iterator[Scene]:
    """Clients may not be silent for long, nor send large requests."""
    limits = {"threads": 1, "read_timeout": SILENCE, "query_limit": LARGEST_REQUEST}
    proxy = new_proxy(cluster, proxy=limits)
    with undisturbed(proxy) as scene:
        yield scene


# --- those that are slow -------------------------------------------------------------------------


def test_requests_that_come_byte_by_byte_are_answered(scene: Scene) -> None:
    requests = [pack("SET", f"slow:{i}", i) if i % 2 else b"SET slow:%d %d\r\n" % (i, i) for i in range(300)]
    with scene.crowd(len(requests)) as wires:
        for at in range(max(map(len, requests))):
            for wire, request in zip(wires, requests, strict=True):
                wire.send(request[at : at + 1])
        scene.other.goes_on()
        assert {wire.reply() for wire in wires} == {OK}
        assert [wires[0].ask("GET", f"slow:{i}") for i in (298, 299)] == [bulk("298"), bulk("299")]


def test_half_a_request_is_waited_for_as_long_as_read_timeout_says(strict: Scene) -> None:
    """It is a limit on silence: whoever goes on sending, however slowly, is not silent."""
    drip = iter(pack("SET", "drip", "x" * 50_000))
    with strict.crowd(300) as silent, strict.open() as dripping:

        def only_the_dripping_one_is_left() -> bool:
            dripping.send(bytes([next(drip)]))
            return strict.metric(SESSIONS) == 2  # and the bystander

        for wire in silent:
            wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\nhal")
        wait_until("the silent ones are closed", only_the_dripping_one_is_left)
        assert all(wire.ended() for wire in silent)
        dripping.send(bytes(drip))
        assert dripping.reply() == OK


def test_many_who_hold_little_are_no_more_than_the_limit_together(scene: Scene) -> None:
    """Without ``read_timeout`` half a request may stay. None holds much, all hold three times the limit."""
    with scene.crowd(400) as wires:
        for wire in wires:
            wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$250000\r\n")
            send_all_it_takes(wire, b"x" * 240_000)
        scene.other.goes_on()  # it would get OOM
        scene.proxy.wait_for_metric(EVICTED, 1)
        assert scene.metric(BUFFERS) < LIMIT + 16 * MEBIBYTE


# --- those that do not read ----------------------------------------------------------------------


def test_who_reads_late_gets_all_in_order(scene: Scene) -> None:
    values = [b"%02d" % i * 8192 for i in range(64)]
    keys = [f"late:{i}".ljust(4096) for i in range(64)]  # so that sockets hold few requests
    round_of_requests = b"".join(pack("GET", key) for key in keys)
    rounds = 200
    with scene.open() as wire:
        for key, value in zip(keys, values, strict=True):
            assert wire.ask("SET", key, value) == OK
        sent = send_all_it_takes(wire, round_of_requests * rounds)
        assert sent < len(round_of_requests) * rounds
        scene.other.goes_on()
        whole = sent // len(round_of_requests)
        expected = [bulk(value) for value in values]
        for _ in range(whole):
            assert wire.replies(len(values)) == expected


def test_who_never_reads_is_closed_when_memory_runs_out(scene: Scene) -> None:
    had = scene.metric(EVICTED)
    with scene.open() as wire:
        assert wire.ask("SET", "large", "x" * MEBIBYTE) == OK
        send_all_it_takes(wire, pack("GET", "large") * 300)
        scene.other.goes_on()
        scene.proxy.wait_for_metric(EVICTED, had + 1)
        until_the_end(wire)


def test_a_million_requests_sent_before_any_reply_is_read(scene: Scene) -> None:
    count = 1_000_000
    data = pack("INCR", "million") * count
    expected = b"".join(b":%d\r\n" % i for i in range(1, count + 1))
    with scene.open() as wire:
        wire.ask("DEL", "million")
        sent = send_all_it_takes(wire, data)
        assert sent < len(data)
        scene.other.goes_on()
        assert exchange(wire, data[sent:], len(expected)) == expected


# --- those that go -------------------------------------------------------------------------------


def test_who_has_said_all_gets_every_reply_and_then_the_end(scene: Scene) -> None:
    with scene.open() as wire:
        wire.ask("DEL", "said")
        wire.send(pack("INCR", "said") * 10_000)
        wire.socket.shutdown(socket.SHUT_WR)
        assert until_the_end(wire) == b"".join(b":%d\r\n" % i for i in range(1, 10_001))


@pytest.mark.parametrize("half", [b"*2\r\n$4\r\nINCR\r\n$4\r\nha", b"*2\r\n", b"INCR half", b"*"])
def test_half_a_request_that_will_never_be_whole_is_not_executed(scene: Scene, half: bytes) -> None:
    with scene.open() as wire:
        wire.send(pack("SET", "half", 1) + pack("GET", "half") + half)
        wire.socket.shutdown(socket.SHUT_WR)
        assert until_the_end(wire) == OK + b"$1\r\n1\r\n"
    with scene.open() as wire:
        assert wire.ask("GET", "half") == b"$1\r\n1\r\n"


UNDER_WAY = {
    "pipeline": pack("SET", "gone", "x" * 1000) * 200,
    "parts": pack("MSET", *range(200)),
    "large": pack("SET", "gone", "x" * 100_000) + pack("GET", "gone") * 20,
    "blocking": pack("BLPOP", "gone:list", 0),
    "watching": pack("WATCH", "gone") + pack("MULTI") + pack("SET", "gone", 1),
    "subscribed": pack("SUBSCRIBE", *(f"gone:{i}" for i in range(20))),
    "everywhere": pack("CLIENT", "LIST") * 5 + pack("DBSIZE") * 5,
    "half": b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\nhalf",
}


def test_a_thousand_resets_with_requests_under_way_leave_nothing(scene: Scene) -> None:
    """What is left of them, ``undisturbed`` looks for."""
    kinds = list(UNDER_WAY.values())
    for i in range(1000):
        wire = scene.open()
        send_all_it_takes(wire, kinds[i % len(kinds)])
        reset(wire)
    scene.other.goes_on()


def test_five_thousand_come_and_go(scene: Scene) -> None:
    for _ in range(5000):
        scene.open().close()
    scene.other.goes_on()


# --- garbage -------------------------------------------------------------------------------------


def told(port: int, data: bytes) -> bytes:
    """All that a server says to these bytes, to PING after them, and to the end after that.

    PING is answered if the connection is still open and the bytes were whole requests.
    """
    with Wire(port) as wire:
        with suppress(OSError):
            wire.send(data + b"\r\nPING\r\n")
            wire.socket.shutdown(socket.SHUT_WR)
        return until_the_end(wire)


BULK = b"*2\r\n$4\r\nECHO\r\n"
GARBAGE = {
    "negative bulk": BULK + b"$-1\r\n",
    "huge bulk": BULK + b"$536870913\r\n",
    "bulk past 64 bits": BULK + b"$99999999999999999999\r\n",
    "no number": BULK + b"$x\r\n",
    "a plus sign": BULK + b"$+1\r\nx\r\n",
    "a leading zero": BULK + b"$01\r\nx\r\n",
    "an empty number": BULK + b"$\r\n",
    "negative count": b"*-1\r\n",
    "count of zero": b"*0\r\n",
    "empty count": b"*\r\n",
    "count past 31 bits": b"*2147483648\r\n",
    "count past 64 bits": b"*18446744073709551617\r\n",
    "nested": b"*1\r\n*1\r\n$4\r\nPING\r\n",
    "deeply nested": b"*1\r\n" * 1000,
    "an integer": b"*1\r\n:1\r\n",
    "another type": b":1\r\n",
    "RESP3": b"%1\r\n+a\r\n+b\r\n",
    "a name with a NUL": pack(b"NO\0SUCH", b"\0", b"a\0b"),
    "an empty name": pack(b""),
    "a long name": pack(b"x" * MEBIBYTE, b"y" * MEBIBYTE),
    "quotes": b'PING "\r\n',
    "quotes that close too early": b"PING 'a'b\r\n",
    "line feeds": b"\n\n\n\r\n",
    "HTTP": b"GET / HTTP/1.1\r\n",
    "HTTP options": b"OPTIONS * HTTP/1.1\r\n",
}


def test_garbage_is_answered_as_redis_answers_it(scene: Scene, plain: RedisServer) -> None:
    for what, data in GARBAGE.items():
        assert told(scene.proxy.port, data) == told(plain.port, data), what
    scene.other.goes_on()


@pytest.mark.parametrize("beginning", [b"*", b"*1\r\n$", b"PING ", b"\0"])
def test_a_line_without_end_is_an_error(scene: Scene, plain: RedisServer, beginning: bytes) -> None:
    """At the first byte past 64 KB, in both: had more been sent, Redis might reset the connection."""
    line = beginning[beginning.rfind(b"\n") + 1 :]
    data = beginning + b"1" * (65_537 - len(line))
    with scene.open() as ours, Wire(plain.port) as theirs:
        ours.send(data)
        theirs.send(data)
        error = until_the_end(ours)
        assert error == until_the_end(theirs)
        assert error.startswith(b"-ERR Protocol error: too big ")


def client_hello() -> bytes:
    """What a client that expects TLS says first."""
    context = ssl.create_default_context()
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(received, sent, server_hostname="redis").do_handshake()
    return sent.read()


PIECES = (
    *(b"*", b"$", b"\r\n", b"\r", b"\n", b"\0", b"\xff", b" ", b'"', b"'", b"\\x", b":", b"+", b"-"),
    *(b"*1\r\n", b"*2\r\n", b"$4\r\n", b"$0\r\n", b"-1", b"0", b"1", b"4", b"2147483648"),
    *(pack("PING"), pack("ECHO", "x"), b"*1\r\n$4\r\n", b"PING", b"ECHO", b"x"),
)  # fmt: skip


def streams(chance: random.Random) -> Iterator[bytes]:
    """Bytes of any kind, and those that are nearly right."""
    yield from (client_hello() for _ in range(10))
    yield from (chance.randbytes(chance.randrange(1, 2000)) for _ in range(100))
    yield from (b"".join(chance.choices(PIECES, k=chance.randrange(1, 12))) for _ in range(600))


PROTOCOL_ERROR = b"-ERR Protocol error: "


def differs_on_purpose(data: bytes, ours: bytes, theirs: bytes) -> bool:
    """Where the proxy, which passes on what has come, is stricter than Redis; or does not wait.

    Redis looks for the end of a line with strchr(3): behind a NUL it waits for ever. And of the CRLF behind
    a length or a value it looks at the CR of the former only, and passes over any two bytes.
    """
    if b"\0" in data and ours.startswith(theirs):
        return True
    before, error, what = ours.rpartition(PROTOCOL_ERROR)
    loose_cr = re.search(rb"\r(?!\n)", data) is not None
    return bool(error) and theirs.startswith(before) and (loose_cr or what.startswith(b"expected CRLF "))


def test_random_bytes_are_answered_as_redis_answers_them(scene: Scene, plain: RedisServer) -> None:
    for data in streams(random.Random(5)):
        ours, theirs = told(scene.proxy.port, data), told(plain.port, data)
        assert ours == theirs or differs_on_purpose(data, ours, theirs), data
    scene.other.goes_on()


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b""])
def test_what_a_browser_was_tricked_into_sending_is_not_executed(
    scene: Scene, plain: RedisServer, first: bytes
) -> None:
    data = first + b"Host: x\r\n\r\nSET smuggled 1\r\n"
    wrong = b"-ERR wrong number of arguments for 'get' command\r\n"
    ours, theirs = told(scene.proxy.port, data), told(plain.port, data)
    assert ours == (wrong if first.startswith(b"GET") else b"")
    assert theirs in (ours, b"")  # Redis forgets what it was about to say
    with scene.open() as wire:
        assert wire.ask("EXISTS", "smuggled") == b":0\r\n"


# --- too much of everything ----------------------------------------------------------------------


def test_what_is_announced_costs_nothing_until_it_comes(scene: Scene) -> None:
    had, part = scene.metric(EVICTED), b"x" * 500_000
    with scene.crowd(20) as wires:
        for wire in wires:
            wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n" + part)
        scene.other.goes_on()
        scene.proxy.wait_for_metric(BUFFERS, len(wires) * len(part))
        assert scene.metric(EVICTED) == had


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n", b"invalid bulk length"),
        (b"*1048577\r\n", b"invalid multibulk length"),  # Redis has been taking 2147483647 since 7.0
    ],
)
def test_what_is_larger_than_any_request_may_be_is_an_error(
    scene: Scene, request_: bytes, what: bytes
) -> None:
    with scene.open() as wire:
        wire.send(request_)
        assert until_the_end(wire) == PROTOCOL_ERROR + what + b"\r\n"


def test_what_is_larger_than_query_limit_is_an_error(strict: Scene) -> None:
    """A value, many of them, and a transaction."""
    with strict.crowd(3) as (large, many, queue):
        large.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % LARGEST_REQUEST)
        assert until_the_end(large) == PROTOCOL_ERROR + b"too big request\r\n"
        send_all_it_takes(many, pack("MSET", *["k" * 100] * 2000))
        assert until_the_end(many) == PROTOCOL_ERROR + b"too big request\r\n"
        assert queue.ask("MULTI") == OK
        too_large = b"-ERR the transaction is larger than query_limit allows a request to be\r\n"
        assert {queue.ask("SET", "k", "x" * 1000) for _ in range(200)} == {b"+QUEUED\r\n", too_large}
        assert queue.ask("EXEC").startswith(b"-EXECABORT ")


def test_a_million_arguments_are_bounded(scene: Scene) -> None:
    """Six bytes of each are sent, and eight are kept of where it is: these count, too."""
    count = 1_000_000
    had, request = scene.metric(EVICTED), b"*1048576\r\n" + b"$0\r\n\r\n" * count
    with scene.crowd(10) as wires:
        send_all_it_takes(wires[0], request)
        scene.proxy.wait_for_metric(BUFFERS, len(request) + 8 * count)
        for wire in wires[1:]:
            send_all_it_takes(wire, request)
        scene.other.goes_on()
        scene.proxy.wait_for_metric(EVICTED, had + 1)


# --- what is kept of a session -------------------------------------------------------------------


def test_what_clients_call_themselves_counts(scene: Scene) -> None:
    had, name = scene.metric(EVICTED), "x" * (2 * MEBIBYTE)
    requests = [
        ("CLIENT", "SETNAME", name),
        ("CLIENT", "SETINFO", "LIB-NAME", name),
        ("CLIENT", "SETINFO", "LIB-VER", name),
        ("HELLO", "3", "SETNAME", name),
    ]
    with scene.crowd(32) as wires:
        for i, wire in enumerate(wires):
            with suppress(EOFError, ConnectionError):
                wire.ask(*requests[i % len(requests)])
            scene.other.goes_on(2)
        assert LIMIT // 2 < scene.metric(BUFFERS) < LIMIT
        assert scene.metric(EVICTED) >= had + 16


def test_many_long_lists_of_clients_are_made_one_by_one(scene: Scene) -> None:
    with scene.crowd(2) as (named, asking):
        assert named.ask("CLIENT", "SETNAME", "x" * (4 * MEBIBYTE)) == OK
        asking.send(pack("CLIENT", "LIST") * 200)
        scene.other.goes_on()
        for _ in range(10):
            assert len(asking.reply()) > 4 * MEBIBYTE


@pytest.mark.parametrize("command", ["SUBSCRIBE", "SSUBSCRIBE"])
def test_subscriptions_count(scene: Scene, command: str) -> None:
    """Who subscribes to ever more is closed; nobody else pays for it."""
    had, at_once = scene.metric(EVICTED), 100
    with scene.crowd(2) as (greedy, modest):

        def subscribe(turn: int) -> None:
            greedy.send(pack(command, *(f"{{a}}{turn}:{i}" for i in range(at_once))))
            greedy.replies(at_once)

        assert modest.ask(command, "{a}modest").startswith(b"*3\r\n")
        most = LIMIT // 1024 // at_once
        assert most // 2 < until_closed(subscribe, most) < most
        assert scene.metric(EVICTED) == had + 1
        assert modest.ask(command, "{a}more").startswith(b"*3\r\n")


def test_subscribing_to_more_than_there_is_room_for_is_refused(scene: Scene) -> None:
    had = scene.metric(TURNED_AWAY)
    with scene.open() as wire:
        assert wire.ask("SUBSCRIBE", *range(300_000)).startswith(b"-OOM ")
        assert scene.metric(TURNED_AWAY) == had + 1
        assert wire.ask("PING") == b"+PONG\r\n"
        assert wire.ask("UNSUBSCRIBE") == b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"


def test_patterns_of_megabytes_count_and_are_not_taken_apart(scene: Scene) -> None:
    """PUBLISH compares its channel with patterns."""
    pattern = b"[a-z]?x" * (MEBIBYTE // 7)
    with scene.crowd(2) as (greedy, publisher):

        def subscribe(turn: int) -> None:
            greedy.ask("PSUBSCRIBE", b"%d" % turn + pattern)
            assert publisher.ask("PUBLISH", "channel", "message") == b":0\r\n"

        most = LIMIT // len(pattern)
        assert most // 4 < until_closed(subscribe, most) < most
        scene.other.goes_on()


def test_a_transaction_counts_while_it_is_queued(scene: Scene) -> None:
    had, value = scene.metric(EVICTED), "x" * 100_000
    with scene.open() as wire:
        assert wire.ask("MULTI") == OK
        most = LIMIT // len(value)
        assert most // 4 < until_closed(lambda _: wire.ask("SET", "queued", value), most) < most
        assert scene.metric(EVICTED) == had + 1
    with scene.open() as wire:
        assert wire.ask("EXISTS", "queued") == b":0\r\n"


def test_watching_many_keys_costs_the_proxy_nothing(scene: Scene) -> None:
    """Servers know what is watched. They compare each key with all others: 100,000 take them seconds."""
    with scene.open() as wire:
        for turn in range(10):
            assert wire.ask("WATCH", *(f"{{w}}{turn}:{i}" for i in range(1000))) == OK
        assert scene.metric(BUFFERS) < MEBIBYTE
        scene.other.goes_on()
        wire.send(pack("MULTI") + pack("SET", "{w}9:1", 1) + pack("EXEC"))
        assert wire.replies(3)[-1] == b"*1\r\n+OK\r\n"


@pytest.mark.parametrize("request_", ["CLIENT TRACKING ON", "CLIENT CACHING YES", "MONITOR"])
def test_what_would_keep_more_of_a_session_is_not_carried_out(scene: Scene, request_: str) -> None:
    with scene.open() as wire:
        assert wire.ask(*request_.split()).startswith(b"-ERR unknown ")
