"""A client that shows the bytes themselves."""

import socket
from collections import deque
from types import TracebackType
from typing import Self

from proxy.control import pack
from proxy.resp import ReplyScanner

DEADLINE = 30.0


class Wire:
    """A connection that sends what it is given and returns replies as they came."""

    def __init__(self, port: int, path: str = "") -> None:
        if path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(DEADLINE)
            self.socket.connect(path)
        else:
            self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._scanner = ReplyScanner()
        self._replies: deque[bytes] = deque()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> bytes:
        """The next reply; raises EOFError when the connection ends first."""
        while not self._replies:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError
            self._replies.extend(self._scanner.feed(data))
        return self._replies.popleft()

    def replies(self, count: int) -> list[bytes]:
        return [self.reply() for _ in range(count)]

    def ask(self, *args: str | bytes | int) -> bytes:
        self.send(pack(*args))
        return self.reply()

    def ended(self) -> bool:
        """Whether the other side closes without another word."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
