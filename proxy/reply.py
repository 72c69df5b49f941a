"""Builds replies: the bytes of RESP2 and RESP3 values.

Types that only RESP3 has are given to a RESP2 client as Redis gives them: a map as a flat array,
a verbatim string as a bulk string.
"""

from collections.abc import Iterable, Sequence
from typing import Final

RESP3: Final = 3
OK: Final = b"+OK\r\n"
INTERNAL_ERROR: Final = b"-ERR internal error of the proxy; its log says more\r\n"

_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def simple(text: str | bytes) -> bytes:
    """A simple string; line ends in it become spaces."""
    return b"+%b\r\n" % _bytes(text).translate(_ONE_LINE)


def error(text: str | bytes, code: str = "ERR") -> bytes:
    """An error; line ends in its text become spaces."""
    return b"-%b %b\r\n" % (code.encode(), _bytes(text).translate(_ONE_LINE))


def integer(value: int) -> bytes:
    return b":%d\r\n" % value


def bulk(data: str | bytes) -> bytes:
    data = _bytes(data)
    return b"$%d\r\n%b\r\n" % (len(data), data)


def null(protocol: int) -> bytes:
    return b"_\r\n" if protocol == RESP3 else b"$-1\r\n"


def array(items: Sequence[bytes]) -> bytes:
    """An array of replies."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def mapping(pairs: Iterable[tuple[bytes, bytes]], protocol: int) -> bytes:
    """A map of replies."""
    items = [item for pair in pairs for item in pair]
    return b"%%%d\r\n%b" % (len(items) // 2, b"".join(items)) if protocol == RESP3 else array(items)


def verbatim(text: str | bytes, protocol: int) -> bytes:
    """Plain text for people to read."""
    if protocol != RESP3:
        return bulk(text)
    text = _bytes(text)
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text)
