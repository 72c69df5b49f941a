"""Servers whose replies are wrong, too much, too little, or without end."""

import random
import socket
from contextlib import suppress

import pytest

from proxy.control import pack
from proxy.reply import bulk
from tests.cluster.bystander import Bystander
from tests.cluster.hostile_server import (
    GET,
    MEBIBYTE,
    OTHER_KEY,
    OWN_KEY,
    READ_TIMEOUT,
    Behaviour,
    Hostile,
    Words,
    outcome,
    says,
    says_and_closes,
    says_nothing,
    says_without_end,
)
from tests.cluster.memory import resident
from tests.cluster.wire import Wire

UNANSWERED = b"no answer within %d ms" % READ_TIMEOUT


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"\x00\xff not RESP\r\n", b"sent what is not RESP"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"sent what is not RESP"),
        (b"+no carriage return\n", b"sent what is not RESP"),
        (b"-no carriage return\n", b"sent what is not RESP"),
        (b"$3\r\nabcde", b"sent what is not RESP"),
        (b"$-2\r\n", b"sent what is not RESP"),
        (b"*-2\r\n", b"sent what is not RESP"),
        (b"$9223372036854775807\r\n", b"sent what is not RESP"),
        (b"*2147483648\r\n", b"sent what is not RESP"),
        (b"$" + b"1" * 100_000, b"sent what is not RESP"),
        (b"-" + b"x" * 100_000, b"sent an endless error"),
    ],
)
def test_what_is_no_reply_becomes_one_clear_error(hostile: Hostile, reply: bytes, why: bytes) -> None:
    hostile.server.behave = says(reply)
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        told = outcome(wire, "SET", OWN_KEY, "v")
        assert told == (
            b"-ERR server 127.0.0.1:%d: %b; the outcome of this command is unknown\r\n"
            % (hostile.server.port, why)
        )
        assert wire.ask("SET", OTHER_KEY + "k", "v") == b"+OK\r\n"
        # What only reads is tried again for a while.
        assert outcome(wire, "GET", OWN_KEY) == b"-ERR server 127.0.0.1:%d: %b\r\n" % (
            hostile.server.port,
            why,
        )
        assert wire.ask("GET", OTHER_KEY + "k") == b"$1\r\nv\r\n"
        other.goes_on()


@pytest.mark.parametrize(
    "command", ["DBSIZE", "KEYS *", "SCAN 0", "WAIT 0 1", "SCRIPT EXISTS x", "PUBSUB NUMPAT"]
)
def test_what_is_no_part_of_the_reply_becomes_one_clear_error(hostile: Hostile, command: str) -> None:
    hostile.server.behave = says(b"+unexpected\r\n")
    with Wire(hostile.proxy.port) as wire:
        assert wire.ask(*command.split()) == (
            b"-ERR a server answered a part of this command with something unexpected\r\n"
        )


@pytest.mark.parametrize(
    "behaviour",
    [
        says_and_closes(b"$10\r\nhalf"),
        says_and_closes(b"*2\r\n$4\r\nhalf\r\n"),
        says(b"*2\r\n$4\r\nhalf\r\n!garbage"),
        says(b"$1000000000000000000\r\nnever to end"),
        says(b"*1000000000\r\n:1\r\n:2\r\n"),
        says(b"+half a line"),
    ],
)
def test_half_a_reply_ends_in_a_closed_connection(hostile: Hostile, behaviour: Behaviour) -> None:
    hostile.server.behave = behaviour
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        wire.send(GET + pack("GET", OTHER_KEY))
        with pytest.raises((EOFError, ConnectionResetError)):
            wire.reply()
        other.goes_on()


@pytest.mark.parametrize(
    ("beginning", "more"),
    [(b"$500000000000\r\n", b"x" * 65536), (b"*1000000000\r\n", b":1\r\n" * 16384), (b"+", b"x" * 65536)],
)
def test_a_reply_without_end_is_held_within_bounds(hostile: Hostile, beginning: bytes, more: bytes) -> None:
    """Its client does not read; the reply is dropped with it, at ``output_limit``."""
    before = resident(hostile.proxy.pid)
    overflows = "redis_proxy_output_overflows_total"
    had = hostile.proxy.metric(overflows)
    hostile.server.behave = says_without_end(beginning, more)
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        wire.send(GET)
        hostile.proxy.wait_for_metric(overflows, had + 1)
        other.goes_on()
        assert resident(hostile.proxy.pid) - before < 64 * MEBIBYTE


def test_a_million_arrays_in_each_other_pass_as_they_are(hostile: Hostile) -> None:
    reply = b"*1\r\n" * 1_000_000 + b":1\r\n"
    hostile.server.behave = says(reply)
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        assert wire.ask("GET", OWN_KEY) == reply
        other.goes_on()


def test_two_replies_to_one_request_are_no_reply_to_the_next(hostile: Hostile) -> None:
    hostile.server.behave = says(b"+first\r\n+second\r\n")
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        for _ in range(20):
            assert wire.ask("SET", OWN_KEY, "v") == b"+first\r\n"
        other.goes_on()


def test_pushes_nobody_asked_for_are_passed_over(hostile: Hostile) -> None:
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
    hostile.server.behave = says(push, b"$4\r\ntrue\r\n", push)
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        for _ in range(20):
            assert wire.ask("GET", OWN_KEY) == b"$4\r\ntrue\r\n"
        other.goes_on()


def test_a_push_without_end_costs_no_memory(hostile: Hostile) -> None:
    before = resident(hostile.proxy.pid)
    hostile.server.behave = says_without_end(b">1000000000\r\n", b":1\r\n" * 16384)
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        wire.send(GET)
        other.goes_on(2000)
        assert resident(hostile.proxy.pid) - before < 16 * MEBIBYTE


def test_a_server_that_never_answers_holds_up_nobody_else(hostile: Hostile) -> None:
    hostile.server.behave = says_nothing
    with Bystander(hostile.proxy.port, OTHER_KEY) as other, Wire(hostile.proxy.port) as wire:
        assert UNANSWERED in wire.ask("SET", OWN_KEY, "v")
        assert UNANSWERED in wire.ask("GET", OWN_KEY)
        other.goes_on()


def test_no_session_gets_what_is_another_ones(hostile: Hostile) -> None:
    """Every key holds its own name. The server's replies are right, or it breaks off in the midst of them."""
    chance = random.Random(3)

    def break_off(peer: socket.socket, words: Words) -> None:
        reply = bulk(words[1] * 100)
        if chance.random() < 0.02:
            peer.sendall(reply[: chance.randrange(len(reply))] + chance.choice([b"", b"\r\n$0\r\n", b"!"]))
            peer.shutdown(socket.SHUT_RDWR)
        else:
            peer.sendall(reply)

    hostile.server.behave = break_off
    right = 0
    with Bystander(hostile.proxy.port, OTHER_KEY) as other:
        for attempt in range(30):
            keys = [f"{OWN_KEY}{attempt}:{i}" for i in range(20)]
            wires = [Wire(hostile.proxy.port) for _ in keys]
            for wire, key in zip(wires, keys, strict=True):
                wire.send(pack("GET", key) * 10)
            for wire, key in zip(wires, keys, strict=True):
                with wire, suppress(EOFError, ConnectionResetError):
                    for reply in (wire.reply() for _ in range(10)):
                        assert reply == bulk(key * 100) or reply.startswith(b"-ERR server ")
                        right += 1
        other.goes_on()
    assert right > 100
