"""What a command answered by Python code may take: requests to several servers, or time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class PartReply(NamedTuple):
    """A server's reply to a part of a command."""

    server: str  # host:port; "" when no server could be reached: the reply is an error of ours then
    reply: bytes  # RESP, whole


class Part(NamedTuple):
    """A request that a command needs of one server."""

    slot: int  # the server that owns this slot gets it
    request: bytes  # RESP


Merge = Callable[[Sequence[PartReply]], "bytes | Fanout"]
"""Makes the reply of the parts' replies, or has the command go on with further requests.

Raises ValueError when a server has answered with something unexpected.
"""


@dataclass(frozen=True, slots=True)
class Fanout:
    """Requests to servers, and how their replies make one; it is given them in the order of the parts."""

    parts: Sequence[Part]
    merge: Merge
    readonly: bool = False  # may be sent again even if it may have been executed
    blocking: bool = False  # each part on a connection of its own, without limit of time

    def __post_init__(self) -> None:
        """Raises ValueError without parts: nothing would ever answer it."""
        if not self.parts:
            raise ValueError("a fan-out without parts")


Complete = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Pending:
    """A reply that comes later: ``start`` is called at once with what is to be called, once, with the reply.

    Both calls happen in the worker's own thread.
    """

    start: Callable[[Complete], None]


Answer = bytes | Fanout | Pending
"""b"" is no reply at all (CLIENT REPLY OFF)."""
