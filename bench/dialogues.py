"""What clients do over a long run: requests of all kinds, which leave nothing behind but a few keys."""

import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from bench.redis_benchmark import Target, run
from proxy.control import Word, pack
from proxy.resp import ReplyScanner

TIMEOUT = 30.0
LARGE = 1 << 20
"""Bytes of a large value."""
DEPTH = 16
KEY = "key:__rand_int__"
TEN_KEYS = [f"{KEY}{number}" for number in range(10)]

MIX: Sequence[tuple[int, Sequence[str]]] = (
    (300_000, ["SET", KEY, "v" * 100]),
    (300_000, ["GET", KEY]),
    (50_000, ["MSET", *(word for key in TEN_KEYS for word in (key, "v"))]),
    (50_000, ["MGET", *TEN_KEYS]),
    (50_000, ["LRANGE", "soak:list", "0", "99"]),
    (50_000, ["EVAL", "return redis.call('get', KEYS[1])", "1", KEY]),
    # Answered by Python code, or by all servers.
    (50_000, ["CLIENT", "SETNAME", "soak"]),
    (10_000, ["DBSIZE"]),
    (5_000, ["SCAN", "0"]),
    (1_000, ["INFO"]),
)
"""Requests of a million, about, and what they are, as redis-benchmark takes them."""


class Client:
    """A connection that sends what it is given and counts what comes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._scanner = ReplyScanner()
        self._replies: deque[bytes] = deque()

    def send(self, *commands: Sequence[Word]) -> None:
        self.socket.sendall(b"".join(pack(*command) for command in commands))

    def read(self, count: int) -> list[bytes]:
        """So many replies, or pushes. Raises OSError."""
        while len(self._replies) < count:
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("closed the connection")
            self._replies.extend(self._scanner.feed(data))
        return [self._replies.popleft() for _ in range(count)]

    def ask(self, *commands: Sequence[Word]) -> list[bytes]:
        self.send(*commands)
        return self.read(len(commands))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def prepare(target: Target) -> None:
    """Makes the values that are only read."""
    with Client(target.port) as client:
        client.ask(("DEL", "soak:list", "soak:queue"), ("RPUSH", "soak:list", *range(100)))
        client.ask(("SET", "soak:large", b"v" * LARGE))


def hold_dialogues(target: Target, scale: float) -> None:
    """A million requests, about, by ``scale`` more or fewer. Raises OSError, or RuntimeError."""
    for count, words in MIX:
        run(target, words, max(1, int(count * scale)), DEPTH)
    for count, dialogue in DIALOGUES:
        for _ in range(max(1, int(count * scale))):
            dialogue(target.port)


def errors(port: int) -> None:
    """400 requests, refused by a server or by the proxy; some errors quote them."""
    commands: list[Sequence[Word]] = [
        *(("INCR", "soak:list"), ("RENAME", "a", "b"), ("GET",), ("NOSUCH", "a", "b")),
    ]
    with Client(port) as client:
        client.ask(*commands * 100)


def transactions(port: int) -> None:
    """400 requests: transactions, some aborted, some given up, some that watch."""
    commands: list[Sequence[Word]] = [
        *(("MULTI",), ("SET", "a", "1"), ("INCR", "a"), ("EXEC",)),
        *(("MULTI",), ("NOSUCH",), ("EXEC",)),
        *(("MULTI",), ("GET", "a"), ("DISCARD",)),
        *(("WATCH", "a"), ("GET", "a"), ("MULTI",), ("INCR", "a"), ("EXEC",), ("UNWATCH",)),
    ]
    with Client(port) as client:
        client.ask(*commands * 25)


def blocking(port: int) -> None:
    """Some find what they wait for, some get it later, one waits in vain."""
    with Client(port) as waits, Client(port) as feeds:
        waits.ask(("BLPOP", "soak:queue", "0.001"))
        for _ in range(25):
            feeds.ask(("RPUSH", "soak:queue", "1"))
            waits.ask(("BLPOP", "soak:queue", "10"))
            waits.send(("BRPOP", "soak:queue", "10"))
            feeds.ask(("RPUSH", "soak:queue", "1"))
            waits.read(1)


def subscriptions(port: int) -> None:
    """100 messages to each of ten clients, in both protocols."""
    with ExitStack() as stack:
        subscribers = [stack.enter_context(Client(port)) for _ in range(10)]
        for number, client in enumerate(subscribers):
            client.ask(("HELLO", 2 + number % 2), ("SUBSCRIBE", "soak"))
        publisher = stack.enter_context(Client(port))
        publisher.ask(*[("PUBLISH", "soak", f"message {number}") for number in range(100)])
        for client in subscribers:
            client.read(100)


def large_values(port: int) -> None:
    """20 requests, with a reply of two values at once."""
    value = b"v" * LARGE
    with Client(port) as client:
        for _ in range(5):
            client.ask(
                ("SET", "soak:large", value), ("GET", "soak:large"), ("STRLEN", "a"), ("GET", "soak:large")
            )


DIALOGUES: Sequence[tuple[int, Callable[[int], None]]] = (
    (200, errors),
    (50, transactions),
    (20, blocking),
    (50, subscriptions),
    (5, large_values),
)
"""How often each is held in a million requests."""
