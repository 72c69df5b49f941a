"""Looks into replies, only as far as merging them needs: most of their bytes are passed on as they came."""

from typing import Final

from proxy.resp import ReplyScanner

NULLS: Final = (b"$-1\r\n", b"*-1\r\n", b"_\r\n")
_LINE_END: Final = b"\r\n"


def is_error(reply: bytes) -> bool:
    return reply.startswith((b"-", b"!"))


def number(reply: bytes) -> int:
    """The value of an integer. Raises ValueError when it is none."""
    if not reply.startswith(b":"):
        raise ValueError(f"not an integer: {reply[:64]!r}")
    return int(reply[1:-2])


def content(reply: bytes) -> bytes:
    """The bytes of a bulk string. Raises ValueError when it is none, or null."""
    if not reply.startswith(b"$") or reply in NULLS:
        raise ValueError(f"not a bulk string: {reply[:64]!r}")
    return reply[reply.index(_LINE_END) + 2 : -2]


def header(reply: bytes) -> tuple[int, int]:
    """How many replies an array, set or map holds, keys and values alike; where the first begins.

    Raises ValueError when it is none of these, or null.
    """
    end = reply.index(_LINE_END)
    count = int(reply[1:end])
    if not reply.startswith((b"*", b"~", b"%")) or count < 0:
        raise ValueError(f"not an array: {reply[:64]!r}")
    return count * 2 if reply.startswith(b"%") else count, end + 2


def elements(reply: bytes) -> list[bytes]:
    """What an array, set or map holds, each element whole; a map's keys and values in turn.

    Raises ValueError when it is none of these.
    """
    count, begin = header(reply)
    found = ReplyScanner().feed(reply[begin:])
    if len(found) != count:
        raise ValueError(f"{len(found)} elements instead of {count}: {reply[:64]!r}")
    return found
