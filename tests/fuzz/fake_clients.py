"""Clients of the data plane's fuzz driver: what they say, how it is spoilt, and what they may hear."""

import random
import re
import socket
from collections.abc import Iterator

from proxy.control import pack
from proxy.reply import OK, array, bulk
from proxy.resp import ReplyScanner
from tests.cluster.command_examples import Words, load

MARK = re.compile(rb"<[0-9a-f]{12}>")
"""Stands in every key of a client, another one for each: a reply that goes astray is seen."""
OVERHEARD = re.compile(rb"client|pubsub|slowlog|subscribe", re.IGNORECASE)
"""Who says these may hear of others."""
HOLDS_UP = re.compile(rb"pause|kill", re.IGNORECASE)
"""Commands that may have others wait for long, or end them."""
FRAGMENTS = (b"\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"$0\r\n\r\n", b"\0", b"*1000000\r\n", b"$99999\r\n")

DIALOGUES: list[tuple[Words, ...]] = [
    example.commands
    for examples in load().values()
    for example in examples
    if not HOLDS_UP.search(example.line.encode())
]


def mark_of(rng: random.Random) -> bytes:
    return b"<%012x>" % rng.getrandbits(48)


def _marked(word: bytes, mark: bytes) -> bytes:
    """Keys of the examples are k, or have the hash tag {k}."""
    return mark if word == b"k" else word.replace(b"{k}", b"{%b}" % mark)


def dialogue(rng: random.Random, mark: bytes) -> bytes:
    """Some examples one after the other; one in ten is written as a plain line."""
    said = []
    for commands in rng.choices(DIALOGUES, k=rng.randint(1, 20)):
        for words in commands:
            marked = [_marked(word, mark) for word in words]
            said.append(b" ".join(marked) + b"\r\n" if rng.random() < 0.1 else pack(*marked))
    return b"".join(said)


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """With a few bytes changed, left out, put in or said twice."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del changed[at : at + rng.choice((1, 2, 10, 100))]
            case 2:
                changed[at:at] = rng.choice(FRAGMENTS)
            case 3:
                changed[at:at] = changed[at : at + rng.randint(1, 60)]
    return bytes(changed)


class FakeClient:
    """One end of a socket pair, whose other end is a session."""

    def __init__(self, rng: random.Random, end: socket.socket) -> None:
        self.socket = end
        self.mark = mark_of(rng)
        self.said = b""
        self.heard = bytearray()
        self.ended = False
        """Nothing more will come."""
        self._rng = rng
        data = dialogue(rng, self.mark)
        self.rest = self.script(data if rng.random() < 0.4 else spoilt(rng, data))

    def script(self, data: bytes) -> bytes:
        return data

    def step(self) -> bool:
        """Says a little and hears a little; whether that was possible."""
        size = self._rng.choice((1, 7, 100, 1000, 100_000))
        return self._say(self.rest[:size]) | self.hear(self._rng.choice((1, 100, 100_000)))

    def _say(self, data: bytes) -> bool:
        try:
            sent = self.socket.send(data) if data else 0
        except BlockingIOError:
            return False
        except OSError:
            sent = len(self.rest)  # nobody is there to hear it
        self.said += self.rest[:sent]
        self.rest = self.rest[sent:]
        return sent > 0

    def hear(self, size: int) -> bool:
        if self.ended:
            return False
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.ended = not data
        self.heard += data
        return bool(data)

    def check(self, marks: set[bytes]) -> None:
        """``marks``: those of all clients. Raises AssertionError for what must not be heard."""
        strange = (set(MARK.findall(self.heard)) & marks) - {self.mark}
        assert not strange or OVERHEARD.search(self.said), f"{self.mark!r} heard of {strange}: {self.heard!r}"

    def close(self) -> None:
        self.socket.close()


class SteadyClient(FakeClient):
    """Says nothing wrong, stays to the end, and knows what each of its replies must be."""

    def script(self, data: bytes) -> bytes:
        self.expected: list[bytes] = []
        """The replies, if they are no errors."""
        self._scanner = ReplyScanner()
        self._replies: list[bytes] = []
        self._scanned = 0
        return b"".join(self._requests())

    def _requests(self) -> Iterator[bytes]:
        for number in range(self._rng.randint(1, 60)):
            keys = [b"%b%d-%d" % (self.mark, number, part) for part in range(self._rng.randint(1, 5))]
            match self._rng.randrange(4):
                case 0:
                    yield pack("GET", keys[0])
                    self.expected.append(bulk(keys[0]))
                case 1:
                    yield pack("MGET", *keys)
                    self.expected.append(array(list(map(bulk, keys))))
                case 2:
                    yield pack("SET", keys[0], b"v" * self._rng.choice((1, 1000, 50_000)))
                    self.expected.append(OK)
                case 3:
                    yield pack("ECHO", keys[0])
                    self.expected.append(bulk(keys[0]))

    def answered(self) -> bool:
        """Whether every request has its reply, or the connection has ended."""
        self._replies += self._scanner.feed(bytes(self.heard[self._scanned :]))
        self._scanned = len(self.heard)
        return self.ended or len(self._replies) == len(self.expected)

    def check(self, marks: set[bytes]) -> None:
        super().check(marks)
        assert self.answered(), f"{len(self._replies)} of {len(self.expected)} requests were answered"
        for found, expected in zip(self._replies, self.expected, strict=False):
            assert found == expected or found.startswith(b"-"), f"{found!r} instead of {expected!r}"
