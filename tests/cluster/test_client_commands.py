"""CLIENT: what it does to the connection and to those of other clients, on any worker."""

import socket
import struct
import threading
import time
from typing import Any

import pytest

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from proxy.control import pack
from tests.cluster.wire import Wire

# Whole dialogues, sent in one go; the end of each is seen by the answer to its last command.
REPLIES = [
    "CLIENT REPLY OFF; SET r 1; GET r; NOSUCH; CLIENT REPLY ON; GET r",
    "CLIENT REPLY SKIP; GET r; GET r; PING",
    "CLIENT REPLY SKIP; CLIENT REPLY ON; PING",
    "CLIENT REPLY OFF; CLIENT REPLY SKIP; PING; PING; CLIENT REPLY ON; PING",
    "CLIENT REPLY SKIP; MGET r s t; MGET r s t",
    "CLIENT REPLY OFF; MULTI; SET r 2; EXEC; CLIENT REPLY ON; GET r",
    "CLIENT REPLY SKIP; NOSUCH; PING",
    "CLIENT REPLY OFF; DEL r s t; CLIENT REPLY ON; EXISTS r",
    "CLIENT REPLY OFF; RESET; PING",
    "CLIENT REPLY BOGUS; PING",
    "CLIENT REPLY OFF; SUBSCRIBE r; UNSUBSCRIBE r; PING; CLIENT REPLY ON; PING",
    "CLIENT REPLY SKIP; PSUBSCRIBE r; PUNSUBSCRIBE; PING",
]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("dialogue", REPLIES)
def test_replies_that_nobody_wants(
    shared_proxy: ProxyProcess, plain: Any, dialogue: str, protocol: int
) -> None:
    found = []
    for port in (shared_proxy.port, plain.address.port):
        with Wire(port) as wire:
            wire.ask("HELLO", protocol)
            wire.ask("DEL", "r", "s", "t")
            wire.send(
                b"".join(pack(*line.split()) for line in dialogue.split("; ")) + pack("ECHO", "the end")
            )
            heard = []
            while b"the end" not in (reply := wire.reply()):
                heard.append(reply)
            found.append(heard)
    assert found[0] == found[1]


def test_a_list_of_the_clients_of_all_workers(shared_proxy: ProxyProcess) -> None:
    wires = [Wire(shared_proxy.port) for _ in range(6)]
    ids = set()
    for number, wire in enumerate(wires):
        wire.ask("CLIENT", "SETNAME", f"listed-{number}")
        ids.add(wire.ask("CLIENT", "ID")[1:-2])
    silent = Wire(shared_proxy.port)  # has said nothing yet
    lines = wires[0].ask("CLIENT", "LIST").split(b"\n")
    mine = [line for line in lines if b" name=listed-" in line]
    assert {line.split()[0].removeprefix(b"id=") for line in mine} == ids
    address = b"addr=127.0.0.1:%d " % silent.socket.getsockname()[1]
    wait_until("it is listed", lambda: address in wires[0].ask("CLIENT", "LIST"))
    assert wires[0].ask("CLIENT", "INFO").count(b"name=listed-0 ") == 1
    for wire in (*wires, silent):
        wire.close()


def test_a_list_while_clients_reset_their_connections(shared_proxy: ProxyProcess) -> None:
    """They are gone before the proxy has read that they are: nobody's address can be told any more."""
    with Wire(shared_proxy.port) as wire:
        for _ in range(200):
            wire.send(10 * pack("CLIENT", "LIST"))
            for _ in range(10):
                client = socket.create_connection(("127.0.0.1", shared_proxy.port))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            assert all(reply.startswith(b"$") for reply in wire.replies(10))


def test_killing(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as killer:
        victims = [Wire(shared_proxy.port) for _ in range(4)]
        ids = [victim.ask("CLIENT", "ID")[1:-2] for victim in victims]
        for id_ in ids[:2]:
            assert killer.ask("CLIENT", "KILL", "ID", id_) == b":1\r\n"
        port = victims[2].socket.getsockname()[1]
        assert killer.ask("CLIENT", "KILL", f"127.0.0.1:{port}") == b"+OK\r\n"
        assert all(victim.ended() for victim in victims[:3])
        assert victims[3].ask("PING") == b"+PONG\r\n"
        assert killer.ask("CLIENT", "KILL", "ID", ids[0]) == b":0\r\n"
        assert killer.ask("CLIENT", "KILL", "127.0.0.1:1") == b"-ERR No such client\r\n"
        own = killer.ask("CLIENT", "ID")[1:-2]
        assert killer.ask("CLIENT", "KILL", "ID", own, "SKIPME", "no") == b":1\r\n"
        assert killer.ended()
        victims[3].close()


def test_a_killed_client_of_a_transaction(shared_proxy: ProxyProcess) -> None:
    """Nothing of what it has queued is executed, and what it watched is let go."""
    with Wire(shared_proxy.port) as victim, Wire(shared_proxy.port) as killer:
        id_ = victim.ask("CLIENT", "ID")[1:-2]
        victim.ask("WATCH", "{kill}a")
        victim.ask("MULTI")
        victim.ask("SET", "{kill}a", "1")
        assert killer.ask("CLIENT", "KILL", "ID", id_) == b":1\r\n"
        assert victim.ended()
        assert killer.ask("GET", "{kill}a") == b"$-1\r\n"


@pytest.mark.parametrize("mode", ["WRITE", "ALL"])
def test_pausing_holds_the_clients_of_all_workers(shared_proxy: ProxyProcess, mode: str) -> None:
    wires = [Wire(shared_proxy.port) for _ in range(4)]
    with Wire(shared_proxy.port) as pauser:
        assert pauser.ask("CLIENT", "PAUSE", "30000", mode) == b"+OK\r\n"
        for wire in wires:
            wire.send(pack("SET", "paused", "x"))
            wire.socket.settimeout(0.2)
        reader = Wire(shared_proxy.port)
        reader.send(pack("GET", "nothing"))
        reader.socket.settimeout(0.2)
        if mode == "WRITE":
            assert reader.reply() == b"$-1\r\n"
            reader.send(pack("MULTI") + pack("PING") + pack("GET", "nothing") + pack("EXEC"))
            assert reader.replies(4)[3] == b"*2\r\n+PONG\r\n$-1\r\n", "it does not write"
            wait_until(
                "those who wait are counted",
                lambda: b"blocked_clients:4\r\n" in reader.ask("INFO", "clients"),
            )
        else:
            with pytest.raises(TimeoutError):
                reader.reply()
        for wire in wires:
            with pytest.raises(TimeoutError):
                wire.reply()
            wire.socket.settimeout(10)
        reader.socket.settimeout(10)
        assert pauser.ask("CLIENT", "UNPAUSE") == b"+OK\r\n"
        for wire in wires:
            assert wire.reply() == b"+OK\r\n"
            wire.close()
        if mode == "ALL":
            assert reader.reply() == b"$-1\r\n"
        reader.close()


def test_a_pause_ends_by_itself(shared_proxy: ProxyProcess) -> None:
    with Wire(shared_proxy.port) as wire, Wire(shared_proxy.port) as other:
        began = time.monotonic()
        assert wire.ask("CLIENT", "PAUSE", "300") == b"+OK\r\n"
        threads = [threading.Thread(target=other.ask, args=("SET", "paused", "x"))]
        for thread in threads:
            thread.start()
        assert wire.ask("INCR", "paused counter").startswith(b":")
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - began >= 0.3
