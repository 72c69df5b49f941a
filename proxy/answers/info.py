"""INFO: sections about the proxy, and sums over the masters behind it."""

import os
import resource
import secrets
import struct
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary

from proxy.answers.config import redis_settings
from proxy.answers.registry import Client, Context, answers, name_of
from proxy.answers.servers import parts
from proxy.commands import REDIS_VERSION
from proxy.fanout import Answer, Fanout, PartReply
from proxy.reply import verbatim
from proxy.topology import Topology

RUN_ID: Final = secrets.token_hex(20)
FRESH: Final = 1.0
"""Seconds for which what the masters have told counts: they are asked no more often."""

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all masters."""

    clients: int
    memory: int  # bytes
    max_memory: int  # bytes; 0: at least one has no limit
    operations: int  # a second
    expired: int
    evicted: int
    hits: int
    misses: int
    keys: int
    expires: int
    ttl: int  # ms, the average of those that expire

    @classmethod
    def of(cls, infos: Iterable[bytes]) -> "Totals":
        """Of the masters' INFO replies, as RESP. Raises ValueError if one is an error."""
        masters = [_fields(info) for info in infos]
        spaces = [_numbers(master.get("db0", "")) for master in masters]

        def total(name: str) -> int:
            return sum(int(master.get(name, 0)) for master in masters)

        expires = sum(space.get("expires", 0) for space in spaces)
        lifetimes = sum(space.get("avg_ttl", 0) * space.get("expires", 0) for space in spaces)
        limited = all(int(master.get("maxmemory", 0)) for master in masters)
        return cls(
            clients=total("connected_clients"),
            memory=total("used_memory"),
            max_memory=total("maxmemory") if limited else 0,
            operations=total("instantaneous_ops_per_sec"),
            expired=total("expired_keys"),
            evicted=total("evicted_keys"),
            hits=total("keyspace_hits"),
            misses=total("keyspace_misses"),
            keys=sum(space.get("keys", 0) for space in spaces),
            expires=expires,
            ttl=lifetimes // expires if expires else 0,
        )


def _fields(info: bytes) -> dict[str, str]:
    if not info.startswith((b"$", b"=")):
        raise ValueError(info)
    lines = info.decode("utf-8", "replace").split("\r\n")
    return dict(line.split(":", 1) for line in lines[1:] if ":" in line)


def _numbers(space: str) -> dict[str, int]:
    """Such as keys=1,expires=0,avg_ttl=0."""
    pairs = (pair.partition("=") for pair in space.split(",") if pair)
    return {name: int(number) for name, _, number in pairs}


@dataclass(slots=True)
class _Told:
    """What the masters have told last; None if they could not."""

    totals: Totals | None = None
    at: float = -FRESH  # by monotonic()
    asked: float = -FRESH

    def is_fresh(self, now: float) -> bool:
        """What they have told before will do while the next is on its way."""
        return now - self.at < FRESH or (self.totals is not None and now - self.asked < FRESH)


_told: Final[WeakKeyDictionary[Context, _Told]] = WeakKeyDictionary()


@answers("info", -1)
def _info(client: Client, context: Context, args: list[bytes]) -> Answer:
    wanted = {name_of(arg) for arg in args[1:]} or {"default"}
    everything = not wanted.isdisjoint(("default", "all", "everything"))
    titles = [title for title in SECTIONS if everything or title.lower() in wanted]
    protocol = client.protocol  # it may be another one when the masters have answered
    asked = [] if OF_SERVERS.isdisjoint(titles) else parts(context, [b"INFO"])
    if not asked:
        return _text(protocol, context, titles, None)
    told = _told.setdefault(context, _Told())
    now = monotonic()
    if told.is_fresh(now):
        return _text(protocol, context, titles, told.totals)
    told.asked = now

    def merge(replies: Sequence[PartReply]) -> bytes:
        try:
            told.totals = Totals.of(reply for _, reply in replies)
        except ValueError:
            told.totals = None
        told.at = monotonic()
        return _text(protocol, context, titles, told.totals)

    return Fanout(asked, merge, readonly=True)


def _text(protocol: int, context: Context, titles: Iterable[str], totals: Totals | None) -> bytes:
    found = {title: SECTIONS[title](context, totals) for title in titles}
    text = "\r\n".join(
        f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items())
        for title, fields in found.items()
        if fields is not None
    )
    return verbatim(text, protocol)


def _info_server(context: Context, _totals: Totals | None) -> Fields:
    facts = context.facts
    uptime = max(int(time.time() - facts.started), 0)
    system = os.uname()
    return {
        "redis_version": facts.redis_version or REDIS_VERSION,
        "proxy_version": facts.proxy_version,
        "redis_mode": "cluster" if context.config.announce_addr else "standalone",
        "os": f"{system.sysname} {system.release} {system.machine}",
        "arch_bits": struct.calcsize("P") * 8,
        "multiplexing_api": "epoll",
        "process_id": os.getpid(),
        "run_id": RUN_ID,
        "tcp_port": facts.tcp_port,
        "server_time_usec": time.time_ns() // 1000,
        "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // 86400,
        "executable": sys.executable,
    }


def _info_clients(context: Context, _totals: Totals | None) -> Fields:
    return {
        "connected_clients": context.facts.connected_clients,
        "maxclients": redis_settings(context)["maxclients"],
        "blocked_clients": context.facts.blocked_clients,
    }


def _info_memory(context: Context, _totals: Totals | None) -> Fields:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    settings = redis_settings(context)
    return {
        "used_memory": resident,
        "used_memory_rss": resident,
        "maxmemory": settings["maxmemory"],
        "maxmemory_policy": settings["maxmemory-policy"],
    }


def _info_persistence(_context: Context, _totals: Totals | None) -> Fields:
    return {"loading": 0, "async_loading": 0, "rdb_bgsave_in_progress": 0, "aof_enabled": 0}


def _info_stats(context: Context, totals: Totals | None) -> Fields:
    facts = context.facts
    fields: Fields = {
        "total_connections_received": facts.accepted,
        "total_commands_processed": sum(calls for calls, _ in context.latencies().values()),
        "total_net_input_bytes": facts.bytes_in,
        "total_net_output_bytes": facts.bytes_out,
        "rejected_connections": facts.rejected,
    }
    if totals is not None:
        fields |= {
            "expired_keys": totals.expired,
            "evicted_keys": totals.evicted,
            "keyspace_hits": totals.hits,
            "keyspace_misses": totals.misses,
        }
    return fields


def _info_replication(_context: Context, _totals: Totals | None) -> Fields:
    return {"role": "master", "connected_slaves": 0}


def _info_cpu(_context: Context, _totals: Totals | None) -> Fields:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"used_cpu_sys": f"{used.ru_stime:.6f}", "used_cpu_user": f"{used.ru_utime:.6f}"}


def _info_cluster(context: Context, _totals: Totals | None) -> Fields:
    return {"cluster_enabled": int(context.config.announce_addr is not None)}


def _info_keyspace(_context: Context, totals: Totals | None) -> Fields | None:
    if totals is None:
        return None
    return {"db0": f"keys={totals.keys},expires={totals.expires},avg_ttl={totals.ttl}"} if totals.keys else {}


def _info_servers(context: Context, totals: Totals | None) -> Fields | None:
    """Ours: the masters together. No name is also another section's: clients keep one of each."""
    topology = context.topology
    if topology is None or totals is None:
        return None
    return {
        "masters": len(topology.masters),
        "replicas": _replicas(topology),
        "slots_covered": topology.slots_covered,
        "servers_connected_clients": totals.clients,
        "servers_used_memory": totals.memory,
        "servers_maxmemory": totals.max_memory,
        "servers_keys": totals.keys,
        "servers_ops_per_sec": totals.operations,
        "servers_keyspace_hits": totals.hits,
        "servers_keyspace_misses": totals.misses,
    }


def _replicas(topology: Topology) -> int:
    return len(topology.servers) - len(topology.masters)


SECTIONS: Final[Mapping[str, Callable[[Context, Totals | None], Fields | None]]] = {
    "Server": _info_server,
    "Clients": _info_clients,
    "Memory": _info_memory,
    "Persistence": _info_persistence,
    "Stats": _info_stats,
    "Replication": _info_replication,
    "CPU": _info_cpu,
    "Cluster": _info_cluster,
    "Keyspace": _info_keyspace,
    "Servers": _info_servers,
}
"""By their titles, in the order of Redis's; None leaves one out."""

OF_SERVERS: Final = frozenset(("Stats", "Keyspace", "Servers"))
"""Those for which the masters are asked."""
