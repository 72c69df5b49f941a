"""Servers that lie about the cluster, or about themselves, to the proxy itself."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from lab.processes import wait_until
from lab.redis_cluster import RedisCluster
from proxy.reply import array, bulk, integer
from tests.cluster.bystander import Bystander
from tests.cluster.hostile_server import (
    MEBIBYTE,
    OTHER_KEY,
    OWN_KEY,
    Behaviour,
    Hostile,
    HostileServer,
    Words,
    answers_as,
    outcome,
    proxy_before,
    slot_range,
)
from tests.cluster.memory import resident
from tests.cluster.wire import Wire


@pytest.fixture
def liar(cluster: RedisCluster) -> Iterator[Hostile]:
    """A pair that is not used again: what the proxy has been told may last."""
    with HostileServer(cluster) as server:
        proxy = proxy_before(server)
        proxy.start()
        found = Hostile(server, proxy)
        found.wait_until_served()
        before = resident(proxy.pid)
        yield found
        assert resident(proxy.pid) - before < 128 * MEBIBYTE
        log = proxy.log()
        assert proxy.stop() == 0, log
        assert "Traceback" not in log, log


def told(hostile: Hostile, control: Behaviour) -> Callable[[], bool]:
    """Has the server answer the proxy's own questions so; returns whether it has been asked for its slots."""
    asked = threading.Event()

    def note(peer: socket.socket, words: Words) -> None:
        if words[-1].upper() == b"SLOTS":
            asked.set()
        control(peer, words)

    hostile.server.control = note
    hostile.server.close_all()
    return asked.is_set


WHOLE = [integer(0), integer(16383)]


@pytest.mark.parametrize(
    "slots",
    [
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n*0\r\n",
        b"*1\r\n$3\r\nabc\r\n",
        array([slot_range(-5, 16383, "127.0.0.1", 7000)]),
        array([slot_range(0, 16384, "127.0.0.1", 7000)]),
        array([slot_range(16383, 0, "127.0.0.1", 7000)]),
        array([slot_range(0, 1 << 62, "127.0.0.1", 7000)]),
        array([slot_range(0, 16383, "127.0.0.1", 0)]),
        array([slot_range(0, 16383, "127.0.0.1", 65536)]),
        array([slot_range(0, 16383, "127.0.0.1", -1)]),
        array([slot_range(0, 16383, b"\xff\xfe", 7000)]),
        array([array([*WHOLE, array([bulk("127.0.0.1"), bulk("port")])])]),
        array([array([*WHOLE, array([integer(1), integer(7000)])])]),
        array([array([*WHOLE, array([array([]), integer(7000)])])]),
        array([array([*WHOLE, bulk("127.0.0.1")])]),
        array([array([bulk("0"), bulk("16383"), array([bulk("127.0.0.1"), integer(7000)])])]),
        b"*4294967295\r\n",
        b"*1000000000\r\n" + b":1\r\n" * 1000,
        b"$1000000000000000000\r\n" + b"x" * 1000,
        b"*1\r\n" * 1_000_000 + b":1\r\n",
        b"\x00\xff not RESP\r\n",
        b"-ERR " + b"x" * 1_000_000 + b"\r\n",
        b"-ERR \xff\xfe\x1b[31m\r\n",
    ],
)
def test_a_topology_that_is_garbage_is_not_believed(liar: Hostile, slots: bytes) -> None:
    with Bystander(liar.proxy.port, OTHER_KEY) as other, Wire(liar.proxy.port) as wire:
        wait_until("it has been told", told(liar, answers_as(slots, "CLUSTER", "SLOTS")))
        # The real servers say that this slot is theirs.
        wait_until("others are believed", lambda: outcome(wire, "GET", OWN_KEY) == b"$-1\r\n")
        other.goes_on()
    assert liar.proxy.metric("redis_proxy_topology_slots_covered") == 16384
    assert len(liar.proxy.log()) < 100_000


@pytest.mark.parametrize("info", [b":1\r\n", b"$-1\r\n", b"*0\r\n", b"$2\r\n\xff\xfe\r\n", b"-ERR no\r\n"])
@pytest.mark.parametrize("asked", [("CLUSTER", "INFO"), ("INFO",), ("CLIENT", "ID"), ("PING",)])
def test_whatever_else_it_says_of_itself_harms_nobody_else(
    cluster: RedisCluster, asked: tuple[str, ...], info: bytes
) -> None:
    """From the start on, with a real server to be asked beside it."""
    heard = threading.Event()
    lie = answers_as(info, *asked)

    def answer(peer: socket.socket, words: Words) -> None:
        lie(peer, words)
        heard.set()

    with HostileServer(cluster) as server:
        server.control = answer
        with proxy_before(server, *cluster.addresses) as proxy:
            with Bystander(proxy.port, OTHER_KEY) as other, Wire(proxy.port) as wire:
                wait_until("it has been told", lambda: told_now(wire, heard))
                other.goes_on()
            log = proxy.log()
            assert proxy.stop() == 0, log
            assert "Traceback" not in log, log


def told_now(wire: Wire, heard: threading.Event) -> bool:
    """Has the proxy want a connection to the server, whose slots it may own or not."""
    outcome(wire, "GET", OWN_KEY)
    wire.ask("BLPOP", OWN_KEY, "0.01")
    return heard.is_set()


@pytest.mark.parametrize("reply", [b":1\r\n", b"$-1\r\n", b"*2\r\n:1\r\n*1\r\n$3\r\nget\r\n", b"-ERR no\r\n"])
def test_commands_that_are_none_are_not_learnt(cluster: RedisCluster, reply: bytes) -> None:
    asked = threading.Event()

    def answer(peer: socket.socket, words: Words) -> None:
        match [word.upper() for word in words]:
            case [b"COMMAND"]:
                peer.sendall(reply)
                asked.set()
            case [b"CLUSTER", b"SLOTS"]:
                peer.sendall(array([slot_range(0, 16383, "127.0.0.1", server.port)]))
            case _:
                raise NotImplementedError

    with HostileServer(cluster) as server:
        server.control = answer
        with proxy_before(server) as proxy:
            with Wire(proxy.port) as wire:
                wait_until("it has been told", asked.is_set)
                assert wire.ask("GET", OWN_KEY) == bulk(OWN_KEY)
            log = proxy.log()
            assert proxy.stop() == 0, log
            assert "Traceback" not in log, log
