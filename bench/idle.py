"""Many clients that are connected and do nothing, each after a first word of some kind."""

import resource
import select
import socket
import struct
from types import TracebackType
from typing import Self

from proxy.control import pack

GREETINGS = {
    "silent": b"",
    "PING": pack("PING"),
    "HELLO 3, CLIENT SETNAME": pack("HELLO", 3) + pack("CLIENT", "SETNAME", "idle"),
}
"""What a client says before it falls silent."""
AT_ONCE = 200
"""Clients that connect before their replies are read: more would not fit in the listener's queue."""
RESERVED = 1500
"""Descriptors for everything else; the proxy keeps 1024 from its clients."""
LAST_WORDS = (b"+OK\r\n", b"+PONG\r\n")
"""With what the replies to a greeting end."""
DEADLINE = 30


def allow_descriptors(clients: int) -> None:
    """Raises the limit of this process and of those it starts, or OSError if the system won't have it."""
    wanted = clients + RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard) or hard >= wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError) as error:
        raise OSError(
            f"{clients:,} clients need {wanted:,} descriptors in each process, and {hard:,} are allowed: "
            "raise the limit (ulimit -Hn), or ask for fewer"
        ) from error


class IdleClients:
    """Connected while the block runs; the other side knows all of them, and has answered each."""

    def __init__(self, port: int, count: int, greeting: bytes) -> None:
        self._port = port
        self._count = count
        self._greeting = greeting
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        """Raises OSError when a connection can't be made, or ends."""
        try:
            while len(self._sockets) < self._count:
                self._connect(min(AT_ONCE, self._count - len(self._sockets)))
        except BaseException:
            self._close()
            raise
        return self

    def _connect(self, count: int) -> None:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", self._port), DEADLINE)
            self._sockets.append(client)
            client.sendall(self._greeting)
        for client in self._sockets[-count:] if self._greeting else []:
            replies = b""
            while not replies.endswith(LAST_WORDS):
                data = client.recv(65536)
                if not data:
                    raise ConnectionError("an idle client's connection was closed")
                replies += data

    def are_well(self) -> bool:
        """Whether every connection is open, with nothing to read."""
        poll = select.poll()
        for client in self._sockets:
            poll.register(client, select.POLLIN | select.POLLHUP)
        return not poll.poll(0)

    def _close(self) -> None:
        for client in self._sockets:
            # Reset: ports that wait for what may still come would run out.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        self._sockets.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
