"""A host and a port, as configuration files, flags and servers write them."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_LONGEST_NAME = 253
_LAST_PORT = 65535
_LONGEST_PORT = 20


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An IP address or DNS name, and a TCP port. Written ``host:port``, or ``[::1]:port`` for IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, default_host: str | None = None) -> Self:
        """Reads ``host:port`` or ``[IPv6]:port``; with a ``default_host`` also ``port`` and ``:port``.

        IPv6 addresses are brought to their shortest form. Raises ValueError that says what is wrong.
        """
        if text.startswith("["):
            bracketed, closed, rest = text[1:].partition("]")
            if not closed:
                raise ValueError("the bracket around the IPv6 address is not closed")
            if not rest.startswith(":"):
                raise ValueError("no port; write [host]:port")
            return cls(_ipv6(bracketed), _port(rest[1:]))
        host, colon, port = text.rpartition(":")
        if ":" in host:
            raise ValueError("more than one colon; an IPv6 address needs brackets, as in [::1]:6379")
        if host:
            return cls(_name_or_ipv4(host), _port(port))
        if default_host is not None and text:
            return cls(default_host, _port(port))
        raise ValueError("no host before the colon" if colon else "not host:port")

    def overlaps(self, other: "Address") -> bool:
        """Whether listening on both is impossible: 0.0.0.0 takes every IPv4 address, :: takes all."""
        return self.port == other.port and (_covers(self.host, other.host) or _covers(other.host, self.host))


def _covers(host: str, other: str) -> bool:
    if host == "::" or (host == "0.0.0.0" and ":" not in other):
        return True
    return _plain(host) == _plain(other)


def _plain(host: str) -> str:
    host = host.lower().removesuffix(".")
    return "127.0.0.1" if host == "localhost" else host


def _port(text: str) -> int:
    if not text:
        raise ValueError("no port after the colon")
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_PORT):
        raise ValueError(f"port {text!r} is not a number in 1..{_LAST_PORT}")
    if not 1 <= int(text) <= _LAST_PORT:
        raise ValueError(f"port {text} is not in 1..{_LAST_PORT}")
    return int(text)


def _ipv6(text: str) -> str:
    try:
        if not (text.isascii() and text.isprintable()):
            raise ValueError
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv6 address") from None


def _name_or_ipv4(text: str) -> str:
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise ValueError(f"{text!r} is not an IPv4 address") from None
    if len(text) > _LONGEST_NAME or not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is neither an IP address nor a host name")
    return text
