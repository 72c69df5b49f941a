"""The clients: each asks one thing after another on a connection, and makes a new one when that ends."""

import errno
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from proxy.address import Address
from proxy.control import Connection, ReplyError, Word
from tests.chaos.history import Closed, History, Kind, Outcome, Read, Write, number_in, value_of

PATIENCE = 25.0
"""Seconds in which a request has to be answered, whatever happens to servers."""
PAUSE = 0.06
"""Seconds between a client's requests, about."""
REGISTERS, SEVERAL = 3, 5
"""Keys of a connection that are written by SET, and by one MSET."""
LIFETIME = 100_000_000
"""ms until a register expires: longer than any run. It is what tells two executions apart."""
UNKNOWN = "the outcome of this command is unknown"
"""In the proxy's error about a write that a server may or may not have executed."""


class Live(NamedTuple):
    """A connection, as CLIENT KILL takes it."""

    proxy: int
    id: int


class Request(NamedTuple):
    words: Sequence[Word]
    understand: Callable[[Any, float], None]
    """What to make of the reply, and when it came."""


class Conversation:
    """All that is asked on one connection."""

    def __init__(
        self, name: str, connection: Connection, rng: random.Random, history: History, known: list[str]
    ) -> None:
        """``known`` are registers of all connections; those of this one are added."""
        self._connection = connection
        self._rng = rng
        self._history = history
        self._known = known
        self._name = name
        self._registers = [f"r:{name}:{number}" for number in range(REGISTERS)]
        self._several = [f"m:{name}:{number}" for number in range(SEVERAL)]
        self._sent: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._writes: list[Write] = []
        self._reads: list[Read] = []
        known += self._registers

    def go_on(self) -> None:
        """Asks one thing, or several at once. Raises OSError."""
        weights = {
            self._set: 4,
            self._get: 3,
            self._get_another_s: 3,
            self._incr: 2,
            self._xadd: 3,
            self._echo: 1,
            self._mset: 1,
            self._mget: 1,
            self._transaction: 1,
        }
        depth = self._rng.choice((1, 1, 1, 1, 4, 12))
        chosen = self._rng.choices(list(weights), list(weights.values()), k=depth)
        self._writes, self._reads = [], []
        requests = [request for choose in chosen for request in choose()]
        try:
            replies = self._connection.pipeline([request.words for request in requests])
            now = time.monotonic()
            for request, reply in zip(requests, replies, strict=True):
                self._understand(request, reply, now)
        finally:
            self._history.add(self._writes, self._reads, len(requests))

    def _understand(self, request: Request, reply: object, now: float) -> None:
        if isinstance(reply, ReplyError):
            self._history.errors[re.sub(r"\d+\.\d+\.\d+\.\d+:\d+|\d+", "#", str(reply))] += 1
        try:
            request.understand(reply, now)
        except (ValueError, TypeError, IndexError) as error:
            self._history.wrong.append(f"{self._name}: {request.words!r} was answered {reply!r}: {error}")

    # --- what is asked -------------------------------------------------------------------------

    def _write(self, key: str, kind: Kind) -> Write:
        number = self._sent[key] = self._sent.get(key, 0) + 1
        made = Write(key, number, kind, time.monotonic())
        self._writes.append(made)
        return made

    def _set(self) -> list[Request]:
        write = self._write(self._rng.choice(self._registers), Kind.REGISTER)
        return [Request(_set_words(write), lambda reply, now: self._settle(write, reply, now, b"OK"))]

    def _incr(self) -> list[Request]:
        write = self._write(f"n:{self._name}", Kind.COUNTER)
        return [Request(("INCR", write.key), lambda reply, now: self._settle(write, reply, now))]

    def _xadd(self) -> list[Request]:
        write = self._write(f"s:{self._name}", Kind.STREAM)
        return [Request(_xadd_words(write), lambda reply, now: self._settle(write, reply, now))]

    def _mset(self) -> list[Request]:
        writes = [self._write(key, Kind.SEVERAL) for key in self._several]
        words = [word for one in writes for word in (one.key, value_of(one.key, one.number))]

        def understand(reply: object, now: float) -> None:
            for write in writes:
                # Of an error the other servers' parts may know nothing.
                self._settle(write, None if isinstance(reply, ReplyError) else reply, now, b"OK")

        return [Request(("MSET", *words), understand)]

    def _transaction(self) -> list[Request]:
        register = self._write(f"{{{self._name}}}:r", Kind.REGISTER)
        stream = self._write(f"{{{self._name}}}:s", Kind.STREAM)
        get = self._get_of(register.key)

        def understand(reply: object, now: float) -> None:
            each = reply if isinstance(reply, list) else [reply] * 3
            self._settle(register, each[0], now, b"OK")
            self._settle(stream, each[1], now)
            get.understand(each[2], now)

        def queued(reply: object, _: float) -> None:
            if not isinstance(reply, ReplyError) and reply not in (b"OK", b"QUEUED"):
                raise ValueError("not QUEUED")

        parts = (("MULTI",), _set_words(register), _xadd_words(stream), get.words)
        return [*(Request(words, queued) for words in parts), Request(("EXEC",), understand)]

    def _get(self) -> list[Request]:
        return [self._get_of(self._rng.choice(self._registers))]

    def _get_of(self, key: str) -> Request:
        sent, most = time.monotonic(), self._sent.get(key, 0)
        return Request(("GET", key), lambda reply, now: self._note(key, reply, sent, now, most))

    def _get_another_s(self) -> list[Request]:
        key, sent = self._rng.choice(self._known[-100:]), time.monotonic()
        return [Request(("GET", key), lambda reply, now: self._note(key, reply, sent, now))]

    def _mget(self) -> list[Request]:
        sent, most = time.monotonic(), [self._sent.get(key, 0) for key in self._several]

        def understand(reply: Any, now: float) -> None:
            if not isinstance(reply, ReplyError):
                for key, value, limit in zip(self._several, reply, most, strict=True):
                    self._note(key, value, sent, now, limit)

        return [Request(("MGET", *self._several), understand)]

    def _echo(self) -> list[Request]:
        said = f"{self._name} {self._rng.random()}"

        def understand(reply: object, _: float) -> None:
            if reply != said.encode():
                raise ValueError("not an echo")

        return [Request(("ECHO", said), understand)]

    # --- what was answered ---------------------------------------------------------------------

    def _settle(self, write: Write, reply: object, now: float, expected: bytes | None = None) -> None:
        """What a reply says of a write; None if it says nothing."""
        write.answered = now
        if isinstance(reply, ReplyError):
            write.outcome = Outcome.UNKNOWN if UNKNOWN in str(reply) else Outcome.REFUSED
            return
        if reply is None:
            return
        if expected is not None and reply != expected:
            raise ValueError(f"not {expected!r}")
        if write.kind is Kind.COUNTER and not isinstance(reply, int):
            raise ValueError("no count")
        if write.kind is Kind.STREAM and not (isinstance(reply, bytes) and re.fullmatch(rb"\d+-\d+", reply)):
            raise ValueError("no entry's id")
        write.outcome = Outcome.OK
        write.reply = reply.decode() if isinstance(reply, bytes) else str(reply)
        self._told[write.key] = write.number

    def _note(self, key: str, reply: Any, sent: float, now: float, most: float = float("inf")) -> None:
        """What a read has seen."""
        if not isinstance(reply, ReplyError):
            number = number_in(key, reply)
            self._reads.append(Read(key, number, sent, now, self._told.get(key, 0), most))


def _set_words(write: Write) -> Sequence[Word]:
    return ("SET", write.key, value_of(write.key, write.number), "PX", LIFETIME)


def _xadd_words(write: Write) -> Sequence[Word]:
    return ("XADD", write.key, "*", "value", value_of(write.key, write.number))


class Clients:
    """Threads, each of which holds one conversation after another, with a proxy chosen at random."""

    def __init__(self, proxies: Sequence[Address], history: History, seed: int, count: int = 32) -> None:
        self._proxies = proxies
        self._history = history
        self._ended = threading.Event()
        self._known: list[str] = []
        self.live: dict[int, Live] = {}
        """The connection of each client now."""
        self.connects = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(f"{seed} {number}")), daemon=True)
            for number in range(count)
        ]

    def _run(self, client: int, rng: random.Random) -> None:
        protocol = 2 + client % 2
        number = 0
        while not self._ended.is_set():
            number += 1
            proxy = rng.randrange(len(self._proxies))
            try:
                with Connection.open(
                    self._proxies[proxy], dial_timeout=PATIENCE, timeout=PATIENCE, protocol=protocol
                ) as connection:
                    self.connects += 1
                    self.live[client] = Live(proxy, connection.call("CLIENT", "ID"))
                    self._converse(f"{client}.{number}", connection, rng)
            except TimeoutError as error:
                self._history.unanswered.append(f"client {client}.{number}, {error}")
            except (OSError, ReplyError) as error:
                if isinstance(error, OSError) and error.errno == errno.EPROTO:
                    self._history.wrong.append(f"client {client}.{number}, {error}")
                self._history.closed.append(Closed(proxy, time.monotonic(), str(error)))
            self._ended.wait(0.05)

    def _converse(self, name: str, connection: Connection, rng: random.Random) -> None:
        conversation = Conversation(name, connection, rng, self._history, self._known)
        while not self._ended.wait(rng.uniform(0, 2 * PAUSE)):
            conversation.go_on()

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)
