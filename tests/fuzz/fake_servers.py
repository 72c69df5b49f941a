"""Servers of the data plane's fuzz driver: one connection each, answering well, badly, or not at all."""

import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.reply import array, bulk, integer
from proxy.resp import RequestScanner
from proxy.slots import slot_of
from tests.fuzz.fake_clients import MARK

NAMES = [f"127.0.0.1:{port}" for port in range(7001, 7007)]
"""As the topology and redirections have them; nobody listens there."""
GARBAGE = (
    b"\x00\xff not RESP\r\n",
    b"-no carriage return\n",
    b"$3\r\nabcde",
    b"$-2\r\n",
    b"*2147483648\r\n",
    b"$9223372036854775807\r\n",
    b"-" + b"x" * 100_000,
    b"+a reply too many\r\n" * 3,
    b"*1000\r\n" * 40,
    b"$100000\r\nand no more",
)
ERRORS = (b"ERR no", b"TRYAGAIN later", b"CLUSTERDOWN down", b"LOADING", b"READONLY", b"EXECABORT", b"NOAUTH")
SUBSCRIPTIONS = {b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"}


@dataclass
class Manners:
    """How likely a server's connection is, for each request, to answer so."""

    redirect: float = 0.0
    error: float = 0.0
    any_type: float = 0.0
    garbage: float = 0.0
    close: float = 0.0
    stall: float = 0.0


class FakeServer:
    """One end of a socket pair, whose other end is an upstream. Raises ProtocolError for what is no RESP."""

    def __init__(self, rng: random.Random, end: socket.socket, protocol: int, manners: Manners) -> None:
        self.socket = end
        self.closed = False
        self._rng = rng
        self._protocol = protocol
        self._manners = manners
        self._scanner = RequestScanner()
        self._requests: list[Sequence[bytes]] = []
        self._out = b""
        self._queued: list[bytes] | None = None
        self._channels: list[tuple[bytes, bytes]] = []
        self._rogue = False
        self._stalled = 0

    def step(self, calm: bool) -> bool:
        """Reads, answers and writes a little, or when ``calm`` all, and well; whether there was anything."""
        busy = self._read()
        manners = Manners() if calm else self._manners
        self._stalled = 0 if calm else max(0, self._stalled - 1)
        while self._requests and not self._stalled and not self.closed:
            if self._rng.random() < manners.stall:
                self._stalled = self._rng.randint(1, 50)
                break
            self._answer(self._requests.pop(0), manners)
            if self._rng.random() < manners.close:
                self.close()
        if self._channels and not calm and self._rng.random() < 0.1:
            self._publish(*self._rng.choice(self._channels))
        return self._write(calm) or busy

    def _read(self) -> bool:
        try:
            data = b"" if self.closed else self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        self._requests += [
            words if isinstance(words, list) else words.split() for words in self._scanner.feed(data)
        ]
        return True

    def _write(self, calm: bool) -> bool:
        size = len(self._out) if calm else self._rng.choice((1, 10, 1000, 1 << 20))
        try:
            sent = 0 if self.closed else self.socket.send(self._out[:size])
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        self._out = self._out[sent:]
        return sent > 0

    def _answer(self, words: Sequence[bytes], manners: Manners) -> None:
        name = words[0].upper()
        if name in SUBSCRIPTIONS:
            self._subscribe(name, words[1:])
        elif self._rogue:
            # Whose request this is can't be said any more: nothing of it is repeated.
            self._out += self._rng.choice((b"+OK\r\n", b":1\r\n", b"$-1\r\n", *GARBAGE))
        elif name == b"MULTI":
            self._queued = []
            self._out += b"+OK\r\n"
        elif name == b"EXEC":
            self._out += array(self._queued or [])
            self._queued = None
        elif self._queued is not None:
            self._queued.append(self._reply(words, manners))
            self._out += b"+QUEUED\r\n"
        else:
            if self._protocol == 3 and self._rng.random() < 0.02:
                self._out += b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
            self._out += self._outcome(words, manners)

    def _outcome(self, words: Sequence[bytes], manners: Manners) -> bytes:
        chance = self._rng.random()
        if chance < manners.redirect:
            mark = next((word for word in words[1:] if MARK.search(word)), b"")
            slot = slot_of(mark) if self._rng.random() < 0.9 else self._rng.randrange(20_000)
            kind = self._rng.choice((b"MOVED", b"ASK"))
            return b"-%b %d %b\r\n" % (kind, slot, self._rng.choice(NAMES).encode())
        chance -= manners.redirect
        if chance < manners.error:
            return b"-%b\r\n" % self._rng.choice(ERRORS)
        chance -= manners.error
        if chance < manners.garbage:
            self._rogue = True
            return self._rng.choice(GARBAGE)
        return self._reply(words, manners)

    def _reply(self, words: Sequence[bytes], manners: Manners) -> bytes:
        """What keeps no secret of whom it is for."""
        if self._rng.random() < manners.any_type:
            return self._some_reply(next((word for word in words if MARK.search(word)), words[0]), 3)
        match words[0].upper():
            case b"GET":
                return bulk(words[1])
            case b"MGET":
                return array([bulk(word) for word in words[1:]])
            case b"PING":
                return b"+PONG\r\n"
            case b"SCAN":
                return array([bulk(b"%d" % self._rng.choice((0, 0, 17))), array([bulk(b"key")])])
            case b"CLIENT" | b"DBSIZE" | b"DEL" | b"UNLINK" | b"EXISTS" | b"TOUCH" | b"INCR" | b"PUBLISH":
                return integer(1)
        return b"+OK\r\n"

    def _some_reply(self, mark: bytes, depth: int) -> bytes:
        rng = self._rng
        plain = (b":%d\r\n" % rng.randrange(1 << 40), b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"+OK\r\n")
        if depth == 0 or rng.random() < 0.6:
            return rng.choice((*plain, bulk(mark), bulk(mark * rng.choice((1, 100, 20_000)))))
        parts = [self._some_reply(mark, depth - 1) for _ in range(2 * rng.randint(0, 3))]
        kind = b"*" if self._protocol == 2 else rng.choice(b"*~%")
        if kind == ord("%"):
            return b"%%%d\r\n" % (len(parts) // 2) + b"".join(parts)
        header = b"~" if kind == ord("~") else b"*"
        return header + b"%d\r\n" % len(parts) + b"".join(parts)

    # --- subscriptions -----------------------------------------------------------------------

    def _subscribe(self, name: bytes, names: Sequence[bytes]) -> None:
        kind = name.lower()
        for channel in names or [b""]:
            if name.endswith(b"UNSUBSCRIBE"):
                self._channels = [one for one in self._channels if one != (kind.replace(b"un", b""), channel)]
            else:
                self._channels.append((kind, channel))
            self._out += b"*3\r\n" + bulk(kind) + bulk(channel) + integer(len(self._channels))

    def _publish(self, kind: bytes, name: bytes) -> None:
        match kind:
            case b"psubscribe":
                self._out += array([bulk(b"pmessage"), bulk(name), bulk(name), bulk(name)])
            case b"ssubscribe":
                self._out += array([bulk(b"smessage"), bulk(name), bulk(name)])
            case _:
                self._out += array([bulk(b"message"), bulk(name), bulk(name)])

    def close(self) -> None:
        self.closed = True
        self.socket.close()
