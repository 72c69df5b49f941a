"""A server that knows how to look like a node of a cluster, and then does what no server should."""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lab.processes import Started, wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import RedisCluster
from proxy.address import Address
from proxy.control import pack
from proxy.reply import OK, array, bulk, error, integer
from proxy.resp import ProtocolError, RequestScanner
from tests.cluster.wire import Wire

Words = Sequence[bytes]
Behaviour = Callable[[socket.socket, Words], None]

OWN_KEY = "{b}"
"""A hash tag in the hostile server's slots, which are those of a cluster's first master."""
OWN_SLOT = 3300
OTHER_KEY = "{a}"
"""A hash tag in the slots of a server that can be relied on."""
GET = pack("GET", OWN_KEY)

CONTROL = {b"CLUSTER", b"INFO", b"CLIENT", b"COMMAND", b"PING", b"HELLO", b"AUTH", b"READONLY"}
"""What the proxy asks for itself."""

MEBIBYTE = 1 << 20
READ_TIMEOUT = 500
"""ms a server may take to reply; after that a request that only reads is sent no more."""


def obey(peer: socket.socket, words: Words) -> None:
    """Every key holds its own name: a reply that goes astray is seen."""
    peer.sendall(bulk(words[1]) if words[0].upper() == b"GET" else OK)


def says(*replies: bytes) -> Behaviour:
    """Whatever is asked, it sends this."""
    return lambda peer, _words: peer.sendall(b"".join(replies))


def says_and_closes(reply: bytes) -> Behaviour:
    def behave(peer: socket.socket, _words: Words) -> None:
        peer.sendall(reply)
        peer.shutdown(socket.SHUT_RDWR)

    return behave


def says_without_end(beginning: bytes, more: bytes) -> Behaviour:
    """It goes on until the other side closes, or a gigabyte is sent."""

    def behave(peer: socket.socket, _words: Words) -> None:
        peer.sendall(beginning)
        for _ in range((1 << 30) // len(more)):
            peer.sendall(more)

    return behave


def says_nothing(_peer: socket.socket, _words: Words) -> None:
    pass


def answers_as(reply: bytes, *asked: str) -> Behaviour:
    """Obeys, but for one command of the handshake or the topology."""
    start = [word.encode() for word in asked]

    def behave(peer: socket.socket, words: Words) -> None:
        if [word.upper() for word in words[: len(start)]] == start:
            peer.sendall(reply)
        else:
            raise NotImplementedError

    return behave


class HostileServer(Started):
    """One thread for each connection; ``behave`` answers what clients ask, ``control`` the rest.

    A cluster's other slots stay with its real servers, as far as this one tells.
    """

    def __init__(self, beside: RedisCluster) -> None:
        self.behave: Behaviour = obey
        self.control: Behaviour = self.answer_control
        self.asked = 0
        """Requests of clients that have come."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._peers: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._real = beside.nodes[0].call("CLUSTER", "SLOTS")

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def addresses(self) -> list[Address]:
        return [Address("127.0.0.1", self.port)]

    @property
    def connections(self) -> int:
        return len(self._peers)

    def start(self) -> None:
        self._accepting.start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.close_all()

    def close_all(self) -> None:
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def relent(self) -> None:
        """Behaves from now on, on new connections."""
        self.behave, self.control = obey, self.answer_control
        self.close_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self._peers.add(peer)
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        scanner = RequestScanner()
        with peer, contextlib.suppress(OSError, ProtocolError):
            while data := peer.recv(1 << 16):
                for words in scanner.feed(data):
                    self._answer(peer, words.split() if isinstance(words, bytes) else words)
        self._peers.discard(peer)

    def _answer(self, peer: socket.socket, words: Words) -> None:
        if words[0].upper() in CONTROL:
            try:
                self.control(peer, words)
            except NotImplementedError:
                self.answer_control(peer, words)
        else:
            self.asked += 1
            self.behave(peer, words)

    def answer_control(self, peer: socket.socket, words: Words) -> None:
        """Answers as a node of a cluster that is well."""
        match [word.upper() for word in words]:
            case [b"CLUSTER", b"INFO"]:
                peer.sendall(bulk("cluster_state:ok\r\ncluster_slots_ok:16384\r\n"))
            case [b"CLUSTER", b"SLOTS"]:
                peer.sendall(self.slots())
            case [b"INFO", *_]:
                peer.sendall(bulk("# Server\r\nredis_version:7.0.15\r\n"))
            case [b"CLIENT", b"ID"]:
                peer.sendall(integer(7))
            case [b"COMMAND", *_]:
                peer.sendall(array([]))
            case [b"PING"]:
                peer.sendall(b"+PONG\r\n")
            case [b"HELLO", *_]:
                peer.sendall(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            case [b"AUTH" | b"READONLY", *_]:
                peer.sendall(OK)
            case _:
                peer.sendall(error("unknown subcommand"))

    def slots(self) -> bytes:
        """CLUSTER SLOTS: the slots of one real master are its own, the others stay where they are."""
        return array(
            [
                slot_range(first, last, "127.0.0.1", nodes[0][1] if first else self.port)
                for first, last, *nodes in self._real
            ]
        )


def slot_range(first: int, last: int, host: str | bytes, port: int) -> bytes:
    """One element of a CLUSTER SLOTS reply."""
    return array([integer(first), integer(last), array([bulk(host), integer(port), bulk("0" * 40)])])


class Hostile(NamedTuple):
    """A server that is to misbehave, and a proxy with one worker before it and real ones."""

    server: HostileServer
    proxy: ProxyProcess

    def wait_until_served(self) -> None:
        """Waits until the server's slots are served by it."""
        with Wire(self.proxy.port) as wire:
            wait_until(
                "the hostile server's slots are served", lambda: wire.ask("GET", OWN_KEY) == bulk(OWN_KEY)
            )


def proxy_before(server: HostileServer, *others: Address, user: str = "") -> ProxyProcess:
    """``user`` is the servers'; its name is its password, too."""
    return ProxyProcess(
        [*server.addresses, *others],
        proxy={"threads": 1, "output_pause": MEBIBYTE, "output_limit": 16 * MEBIBYTE},
        cluster={
            "read_timeout": READ_TIMEOUT,
            "ping_auto_eject": False,
            "node_connections": 1,
            "topology_interval": 200,
            "redis_user": user,
            "redis_auth": user,
        },
    )


def outcome(wire: Wire, *args: str) -> bytes:
    """The reply to a request; b"" when the connection ends before it has wholly come."""
    try:
        return wire.ask(*args)
    except (EOFError, ConnectionResetError):
        return b""
