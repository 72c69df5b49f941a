"""Clients that come, say something or nothing, and go in every way there is."""

import itertools
import socket
import struct
from collections.abc import Callable, Sequence

from bench.dialogues import TIMEOUT, Client
from proxy.control import pack

SAYINGS: Sequence[bytes] = (
    b"",
    pack("PING"),
    pack("GET", "key:1"),
    pack("MGET", *[f"key:{number}" for number in range(10)]),
    pack("HELLO", 3) + pack("CLIENT", "SETNAME", "visitor"),
    pack("CLIENT", "LIST"),
    pack("SCAN", "0"),
    pack("CLIENT", "REPLY", "OFF") + pack("GET", "key:1"),
    pack("QUIT"),
    # Half a request, one that is none, and one whose reply is more than the sockets hold.
    b"*3\r\n$3\r\nSET\r\n$5\r\nkey:1\r\n$100000\r\nvalue",
    b"*x\r\n",
    pack("GET", "soak:large"),
    pack("SUBSCRIBE", "channel") + pack("PSUBSCRIBE", "pattern*"),
    pack("HELLO", 3) + pack("SSUBSCRIBE", "channel"),
    pack("MULTI") + pack("SET", "key:1", "v"),
    pack("WATCH", "key:1"),
    pack("WATCH", "key:1") + pack("MULTI") + pack("GET", "key:1"),
    pack("BLPOP", "soak:queue", "0"),
    pack("XREAD", "BLOCK", "0", "STREAMS", "soak:stream", "$"),
)
"""What is said."""


def close(client: socket.socket) -> None:
    """With a FIN; what comes later is answered with a reset."""
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_close(client: socket.socket) -> None:
    """Says that no more will come, and reads to the end."""
    client.shutdown(socket.SHUT_WR)
    while client.recv(1 << 18):
        pass
    client.close()


WAYS: Sequence[Callable[[socket.socket], None]] = (close, reset, half_close)
"""How clients go."""
AT_ONCE = len(SAYINGS) * len(WAYS)


def visit(port: int, count: int) -> None:
    """So many clients come and go, each pair of a saying and a way in turn. Raises OSError."""
    visits = itertools.islice(itertools.cycle(itertools.product(SAYINGS, WAYS)), count)
    with Client(port) as another:
        while some := list(itertools.islice(visits, AT_ONCE)):
            clients = []
            for saying, _ in some:
                client = socket.create_connection(("127.0.0.1", port), TIMEOUT)
                client.sendall(saying)
                clients.append(client)
            another.ask(("PING",))  # by now they have been heard
            for client, (_, leave) in zip(clients, some, strict=True):
                leave(client)
