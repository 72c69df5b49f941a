"""A blocking connection to a server, for everything outside the data plane.

hiredis parses and packs, but only replies that have come whole: it would make room for as many elements
as a header promises. Topology, pings, handshakes, the lab and the tests speak through it.
"""

import errno
import math
import socket
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import hiredis

from proxy.address import Address
from proxy.config import ClusterConfig
from proxy.keepalive import keep_alive
from proxy.resp import ProtocolError, ReplyScanner

LARGEST_REPLY = 16 << 20
"""Bytes: CLUSTER SLOTS with a range for every slot is half of it."""
LONGEST_ERROR = 512
"""Characters of an error reply that are kept."""

Word = str | bytes | int | float


def pack(*args: Word) -> bytes:
    """A request as RESP."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub says one argument
    return packed


class ReplyError(Exception):
    """An error a server answered with. ``str()`` is the reply without its leading minus."""


def addresses_of(address: Address) -> list[Address]:
    """Every address a name resolves to now, each once. Raises OSError."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(errno.EINVAL, f"{address}: {getattr(error, 'strerror', None) or error}") from error
    return list(dict.fromkeys(Address(str(entry[4][0]), address.port) for entry in found))


class Connection:
    """One connection, one request at a time or a pipeline."""

    def __init__(self, connected: socket.socket, address: Address | str) -> None:
        self.address = address
        self._socket = connected
        self._timeout = connected.gettimeout()
        self._scanner = ReplyScanner()
        self._whole: deque[bytes] = deque()
        self._reader = hiredis.Reader(replyError=lambda text: ReplyError(text[:LONGEST_ERROR]))

    @classmethod
    def open(
        cls,
        address: Address,
        *,
        dial_timeout: float = 0,
        timeout: float = 0,
        user: str = "",
        password: str = "",
        protocol: int = 2,
    ) -> "Connection":
        """Connects to the first of the name's addresses that lets us, and authenticates.

        Times are in seconds, 0 = no limit; ``dial_timeout`` is for each address, ``timeout`` for all replies
        to what is asked at once. Raises OSError, or ReplyError when the server turns the user or the
        protocol down.
        """
        reason: OSError | None = None
        for one in addresses_of(address):
            try:
                connected = socket.create_connection((one.host, one.port), dial_timeout or None)
            except OSError as error:
                reason = OSError(error.errno, f"{one}: {error.strerror or error}")
                continue
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(connected)
            connected.settimeout(timeout or None)
            connection = cls(connected, one)
            try:
                connection._greet(user, password, protocol)
            except BaseException:
                connection.close()
                raise
            return connection
        raise reason or OSError(f"{address}: has no address")

    @classmethod
    def to(cls, cluster: ClusterConfig, server: Address, timeout: float, protocol: int = 2) -> "Connection":
        """``open``, as the user that the configuration has for this cluster's servers."""
        return cls.open(
            server,
            dial_timeout=timeout,
            timeout=timeout,
            user=cluster.redis_user,
            password=cluster.redis_auth,
            protocol=protocol,
        )

    def _greet(self, user: str, password: str, protocol: int) -> None:
        if password:
            self.call("AUTH", *([user] if user else []), password)
        if protocol != 2:
            self.call("HELLO", protocol)

    def call(self, *args: Word) -> Any:
        """Asks and waits for the reply; raises ReplyError for an error reply, OSError if none comes."""
        reply = self.pipeline([args])[0]
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def pipeline(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Asks all at once; error replies stand in the list as ReplyError objects."""
        deadline = math.inf if self._timeout is None else time.monotonic() + self._timeout
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(b"".join(pack(*command) for command in commands))
            replies = [self._read(deadline) for _ in commands]
            if self._whole:
                raise ConnectionError(errno.EPROTO, "answered what was not asked")
            return replies
        except TimeoutError as error:
            raise TimeoutError(f"{self.address}: no answer in time") from error
        except OSError as error:
            raise OSError(error.errno, f"{self.address}: {error.strerror or error}") from error

    def _read(self, deadline: float) -> Any:
        """The next reply, if it has wholly come by then."""
        size = 0
        try:
            while not self._whole:
                if deadline < math.inf:
                    self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
                data = self._socket.recv(65536)
                if not data:
                    raise ConnectionError(errno.ECONNRESET, "closed the connection")
                size += len(data)
                if size > LARGEST_REPLY or time.monotonic() > deadline:
                    raise ConnectionError(errno.EMSGSIZE, "sent a reply without end")
                self._whole.extend(self._scanner.feed(data))
            self._reader.feed(self._whole.popleft())
            reply = self._reader.gets()
        except (ProtocolError, hiredis.ProtocolError) as error:
            raise ConnectionError(errno.EPROTO, "sent what is not RESP") from error
        if reply is False:
            raise ConnectionError(errno.EPROTO, "sent what is not RESP")
        return reply

    def detach(self) -> int:
        """Gives the descriptor up, made nonblocking."""
        self._socket.setblocking(False)
        return self._socket.detach()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
