"""A context for answers that runs no worker: what they may ask is given, what they do is noted."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.address import Address
from proxy.answers import Client, Facts, Plane, SessionRow, SlowRecord, answer
from proxy.config import ClientUser, ClusterConfig, ProxyConfig
from proxy.fanout import Answer, Fanout, PartReply, Pending
from proxy.pubsub import Hub, Tally
from proxy.topology import Topology

FACTS = Facts(
    redis_version="7.0.15",
    proxy_version="1.2.3",
    started=time.time() - 90061,
    tcp_port=6379,
    connected_clients=17,
    max_clients=500,
    max_bulk_length=1 << 29,
    read_timeout=2500,
)


def cluster_config(**values: Any) -> ClusterConfig:
    address = Address("127.0.0.1", 6379)
    return ClusterConfig(**{"name": "a", "listen_addr": address, "servers": (address,), **values})


def user(name: str, password: str) -> ClientUser:
    return ClientUser(name, hashlib.sha256(password.encode()).digest())


@dataclass(eq=False)
class StubPlane:
    """One worker's sessions, all of one cluster."""

    rows: list[SessionRow] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    unblocked: list[tuple[int, bool]] = field(default_factory=list)
    pauses: list[tuple[int, float, bool]] = field(default_factory=list)

    def sessions(self, cluster: int) -> list[SessionRow]:
        return self.rows if cluster == 0 else []

    def kill(self, session: int) -> bool:
        self.killed.append(session)
        return any(row.client.id == session for row in self.rows)

    def unblock(self, session: int, error: bool) -> bool:
        self.unblocked.append((session, error))
        return any(row.client.id == session and row.blocked for row in self.rows)

    def pause(self, cluster: int, seconds: float, writes_only: bool) -> None:
        self.pauses.append((cluster, seconds, writes_only))


def _hub() -> Hub:
    return Hub(
        send=lambda server, data: None,
        push=lambda session, data: None,
        owner=lambda slot: "a:1",
        masters=lambda: ["a:1"],
        tally=Tally(),
    )


@dataclass(eq=False)
class StubContext:
    """``proxy.answers.Context`` of two workers."""

    config: ClusterConfig = field(default_factory=cluster_config)
    proxy_config: ProxyConfig = field(default_factory=ProxyConfig)
    facts: Facts = FACTS
    topology: Topology | None = None
    planes: list[StubPlane] = field(default_factory=lambda: [StubPlane(), StubPlane()])
    slow: list[SlowRecord] = field(default_factory=list)
    histograms: dict[str, tuple[int, list[tuple[int, int]]]] = field(default_factory=dict)
    hub: Hub = field(default_factory=_hub)
    cluster: int = 0
    refreshes: list[str] = field(default_factory=list)

    def refresh(self, reason: str) -> None:
        self.refreshes.append(reason)

    def everywhere(self, ask: Callable[[Plane], Any], merge: Callable[[list[Any]], bytes]) -> Pending:
        return Pending(lambda complete: complete(merge([ask(plane) for plane in self.planes])))

    def slow_log(self) -> list[SlowRecord]:
        return self.slow

    def reset_slow_log(self) -> None:
        self.slow = []

    def latencies(self) -> dict[str, tuple[int, list[tuple[int, int]]]]:
        return self.histograms


def reply_to(
    client: Client, context: StubContext, args: list[bytes], servers: Mapping[int, bytes] | None = None
) -> bytes:
    """The reply to a command; ``servers`` are their replies, by slot, to what it takes of them."""
    return settled(answer(client, context, args), servers)


def settled(found: Answer, servers: Mapping[int, bytes] | None = None) -> bytes:
    if isinstance(found, bytes):
        return found
    if isinstance(found, Fanout):
        assert servers is not None, "it asks servers"
        merged = found.merge([PartReply("host:1", servers[part.slot]) for part in found.parts])
        return settled(merged, servers)
    replies: list[bytes] = []
    found.start(replies.append)
    (reply,) = replies
    return reply
