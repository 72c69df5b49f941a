"""What the clients have asked, and what they were told. Times are of time.monotonic().

Every key is written by one connection, whose writes of it are numbered from 1. A value says which key and
which write it is of, so that one that turns up anywhere else is seen.
"""

import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """How a key is written."""

    REGISTER = "SET"
    STREAM = "XADD"
    COUNTER = "INCR"
    SEVERAL = "MSET"


class Outcome(Enum):
    OK = "acknowledged"
    REFUSED = "refused"
    """By an error that says it was not executed."""
    UNKNOWN = "of unknown outcome"


@dataclass(slots=True)
class Write:
    key: str
    number: int
    kind: Kind
    sent: float
    answered: float = math.inf
    outcome: Outcome = Outcome.UNKNOWN
    reply: str = ""
    """The entry's id that XADD gave, or INCR's count."""

    def __str__(self) -> str:
        return f"{self.kind.value} {self.key} number {self.number}, {self.outcome.value}"


class Read(NamedTuple):
    key: str
    number: int
    """The write that was seen; 0 for none."""
    sent: float
    answered: float
    least: int = 0
    """The newest write that the reader's own connection had been told of, by the order of replies."""
    most: float = math.inf
    """The last write that the reader's own connection had sent before."""


class Closed(NamedTuple):
    """A connection that ended on a client."""

    proxy: int
    at: float
    why: str


def value_of(key: str, number: int) -> str:
    """What a write puts there."""
    return f"{key}={number}"


def number_in(key: str, value: bytes | None) -> int:
    """Which write a value is of; 0 for None. Raises ValueError if it is of another key."""
    if value is None:
        return 0
    of, _, number = value.decode(errors="replace").rpartition("=")
    if of != key:
        raise ValueError(f"{value!r} was read from {key}")
    return int(number)


@dataclass
class History:
    """Filled by all clients at once."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    requests: int = 0
    wrong: list[str] = field(default_factory=list)
    """Replies that can't be of what was asked."""
    unanswered: list[str] = field(default_factory=list)
    """Requests that got no reply in time."""
    closed: list[Closed] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """Error replies, by their text without names of servers and numbers."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, writes: list[Write], reads: list[Read], requests: int) -> None:
        with self.lock:
            self.writes += writes
            self.reads += reads
            self.requests += requests
