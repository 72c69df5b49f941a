"""Servers that send requests elsewhere: round in circles, to nowhere, or in words that mean nothing."""

import itertools
import socket

import pytest

from proxy.control import pack
from proxy.reply import bulk
from tests.cluster.bystander import Bystander
from tests.cluster.hostile_server import OTHER_KEY, OWN_KEY, OWN_SLOT, Hostile, Words, outcome, says
from tests.cluster.wire import Wire

MOVED = b"-MOVED %d " % OWN_SLOT


@pytest.mark.parametrize("word", [b"MOVED", b"ASK"])
def test_a_redirection_to_the_server_itself_is_an_error_in_the_end(hostile: Hostile, word: bytes) -> None:
    told = b"-%b %d 127.0.0.1:%d\r\n" % (word, OWN_SLOT, hostile.server.port)
    hostile.server.behave = says(told)
    before = hostile.server.asked
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        wire.send(pack("SET", OWN_KEY, "v") + pack("GET", OTHER_KEY))
        assert wire.reply() == told
        assert wire.reply().startswith(b"$")
        assert 1 < hostile.server.asked - before < 100  # it is not asked without a pause
        other.goes_on()


@pytest.mark.parametrize("word", [b"MOVED", b"ASK"])
@pytest.mark.parametrize(
    "target", [b"127.0.0.1:1", b"no.such.host.invalid:7000", b"256.1.1.1:7000", b"?:7000"]
)
def test_a_redirection_to_nowhere_is_an_error_in_the_end(
    hostile: Hostile, word: bytes, target: bytes
) -> None:
    hostile.server.behave = says(b"-%b %d %b\r\n" % (word, OWN_SLOT, target))
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        told = wire.ask("SET", OWN_KEY, "v")
        assert told.startswith((b"-ERR server ", b"-MOVED ", b"-ASK "))
        assert target in told
        other.goes_on()


@pytest.mark.parametrize(
    "text",
    [
        b"-MOVED \r\n",
        b"-MOVED x 127.0.0.1:7000\r\n",
        b"-MOVED -1 127.0.0.1:7000\r\n",
        b"-MOVED 16384 127.0.0.1:7000\r\n",
        b"-MOVED 99999999999999999999 127.0.0.1:7000\r\n",
        b"-ASK 03300 127.0.0.1:7000\r\n",
        b"-MOVED %d 127.0.0.1:7000\r\n" % (OWN_SLOT + 1),
        MOVED + b"\r\n",
        MOVED + b":\r\n",
        MOVED + b"127.0.0.1\r\n",
        MOVED + b"127.0.0.1:\r\n",
        MOVED + b"127.0.0.1:port\r\n",
        MOVED + b"127.0.0.1:0\r\n",
        MOVED + b"127.0.0.1:65536\r\n",
        MOVED + b"127.0.0.1:-7000\r\n",
        MOVED + b"127.0.0.1:7000 and more\r\n",
        MOVED + b"two words:7000\r\n",
        MOVED + b"\xff\xfe:7000\r\n",
        MOVED + b"nul\0nul:7000\r\n",
        MOVED + b"x" * 290 + b":7000\r\n",
        MOVED + b"x" * 60_000 + b":7000\r\n",
        b"-MOVED\t%d 127.0.0.1:7000\r\n" % OWN_SLOT,
    ],
)
def test_a_redirection_that_cannot_be_read_is_followed_nowhere(hostile: Hostile, text: bytes) -> None:
    hostile.server.behave = says(text)
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        told = wire.ask("SET", OWN_KEY, "v")
        assert told == text or told.startswith(b"-ERR server " + b"x" * 290)
        assert wire.ask("SET", OTHER_KEY + "k", "v") == b"+OK\r\n"
        other.goes_on()
    assert hostile.proxy.metric("redis_proxy_topology_slots_covered") == 16384  # the page can be made


def test_a_long_name_is_not_made_longer_by_a_port(hostile: Hostile) -> None:
    """To a server with a long name, a redirection without a host means another port of that name."""
    replies = itertools.cycle([MOVED + b"h" * 280 + b":7000\r\n", MOVED + b":" + b"7" * 290 + b"\r\n"])

    def lengthen(peer: socket.socket, _words: Words) -> None:
        peer.sendall(next(replies))

    hostile.server.behave = lengthen
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        for _ in range(4):
            assert outcome(wire, "SET", OWN_KEY, "v").startswith(b"-")
        other.goes_on()


@pytest.mark.parametrize(
    "text",
    [
        b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
        b"-CLUSTERDOWN The cluster is down\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
    ],
)
def test_a_server_that_is_never_ready_is_an_error_in_the_end(hostile: Hostile, text: bytes) -> None:
    hostile.server.behave = says(text)
    before = hostile.server.asked
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        wire.send(pack("MSET", OWN_KEY, "v", OTHER_KEY + "k", "v") + pack("GET", OTHER_KEY + "k"))
        assert wire.reply() == text
        assert wire.reply() == bulk("v")
        assert hostile.server.asked - before < 100  # it is not asked without a pause
        other.goes_on()


def test_names_without_end_that_a_server_redirects_to_cost_nobody_else(hostile: Hostile) -> None:
    names = itertools.count()

    def anywhere(peer: socket.socket, _words: Words) -> None:
        peer.sendall(MOVED + b"127.0.0.%d:%d\r\n" % (next(names) % 200 + 2, 1))

    hostile.server.behave = anywhere
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        for _ in range(10):
            assert outcome(wire, "GET", OWN_KEY).startswith(b"-")
        other.goes_on()
