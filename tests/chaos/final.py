"""What is in the servers at the end."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lab.redis_cluster import RedisCluster
from proxy.address import Address
from proxy.control import Connection, ReplyError
from proxy.slots import slot_of
from tests.chaos.history import Kind, number_in

ATTEMPTS = 5
BATCH = 500
"""Keys asked for at once."""


@dataclass
class Final:
    """The last write of each key, and each stream's entries."""

    last: dict[str, int] = field(default_factory=dict)
    """The number of the write that is there; of a counter, its value."""
    entries: dict[str, dict[int, str]] = field(default_factory=dict)
    """Ids of a stream's entries, by the number of the write."""
    wrong: list[str] = field(default_factory=list)
    """Values that are in another key than their own."""


def read(cluster: RedisCluster, kinds: Mapping[str, Kind]) -> Final:
    """Asks the masters for these keys, once they are well. Raises OSError, ReplyError or TimeoutError."""
    for _ in range(ATTEMPTS - 1):
        cluster.wait_until_well()
        with suppress(OSError, ReplyError):  # a machine that is busy may cause another failover
            return _read(cluster, kinds)
    return _read(cluster, kinds)


def _read(cluster: RedisCluster, kinds: Mapping[str, Kind]) -> Final:
    final = Final()
    for master, keys in _by_master(cluster, kinds).items():
        with Connection.open(master, timeout=30) as connection:
            for start in range(0, len(keys), BATCH):
                some = keys[start : start + BATCH]
                replies = connection.pipeline([_request(key, kinds[key]) for key in some])
                for key, reply in zip(some, replies, strict=True):
                    if isinstance(reply, ReplyError):
                        raise reply
                    try:
                        _note(final, key, kinds[key], reply)
                    except ValueError as error:
                        final.wrong.append(f"at the end: {error}")
    return final


def _by_master(cluster: RedisCluster, keys: Mapping[str, Kind]) -> dict[Address, list[str]]:
    """Each key with the server that has its slot."""
    ranges = [
        (first, last, Address(host.decode(), port))
        for first, last, (host, port, *_), *_ in cluster.masters[0].call("CLUSTER", "SLOTS")
    ]
    found: dict[Address, list[str]] = defaultdict(list)
    for key in keys:
        slot = slot_of(key.encode())
        found[next(master for first, last, master in ranges if first <= slot <= last)].append(key)
    return found


def _request(key: str, kind: Kind) -> tuple[str, ...]:
    return ("XRANGE", key, "-", "+") if kind is Kind.STREAM else ("GET", key)


def _note(final: Final, key: str, kind: Kind, reply: Any) -> None:
    if kind is Kind.STREAM:
        final.entries[key] = {number_in(key, fields[1]): entry.decode() for entry, fields in reply}
    else:
        final.last[key] = int(reply or 0) if kind is Kind.COUNTER else number_in(key, reply)
