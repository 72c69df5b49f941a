"""Which server owns which slots: asked of the cluster itself, and kept up to date.

A topology is immutable and replaced whole. It comes from CLUSTER SLOTS of any server that can be
reached: the configured ones, whose names are resolved anew each time, and every one learnt since.
Source: https://redis.io/docs/latest/commands/cluster-slots/
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from proxy.address import Address
from proxy.config import ClusterConfig
from proxy.control import Connection, ReplyError
from proxy.pool import Pool
from proxy.resolver import Resolver

log = logging.getLogger("proxy.topology")

SLOTS = 16384
UNSETTLED_INTERVAL = 0.25
"""Seconds between two fetches while the last one failed or left slots without a server."""
LONGEST_ASK = 2.0
"""Seconds one server may take to be asked when the configuration sets no limit."""
ASK_PATIENCE = 0.1
"""Seconds without an answer after which the next server is asked as well."""
MOST_AT_ONCE = 8
DEAD_FOR = 5.0
"""Seconds a server that did not answer is asked only after all others."""
REPEAT = 10.0
"""Seconds before the same warning is logged again."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A master, its slots as inclusive ranges in order, and its replicas."""

    master: Address
    ranges: tuple[tuple[int, int], ...]
    replicas: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """All shards, ordered by master, and the version of the server that told of them."""

    shards: tuple[Shard, ...]
    redis_version: str = ""

    @property
    def slots_covered(self) -> int:
        return sum(last - first + 1 for shard in self.shards for first, last in shard.ranges)

    @property
    def covered(self) -> bool:
        """Whether every slot has a server."""
        return self.slots_covered == SLOTS

    @property
    def masters(self) -> tuple[Address, ...]:
        return tuple(shard.master for shard in self.shards)

    @property
    def servers(self) -> tuple[Address, ...]:
        """Masters, then replicas, each once."""
        replicas = (replica for shard in self.shards for replica in shard.replicas)
        return tuple(dict.fromkeys([*self.masters, *replicas]))


def parse_slots(reply: Any, asked: Address, redis_version: str = "") -> Topology:
    """Reads a CLUSTER SLOTS reply that ``asked`` gave. Raises ValueError when it is not one.

    A server without a host is the one that was asked, at another port; one whose host is unknown
    ("?") or that has no port is left out.
    """
    owned: dict[Address, list[tuple[int, int]]] = {}
    replicas: dict[Address, list[Address]] = {}
    try:
        for first, last, *nodes in reply:
            if not 0 <= first <= last < SLOTS:
                raise ValueError(f"slots {first} to {last}")
            found = [_node(node, asked) for node in nodes]
            if not found or found[0] is None:
                continue
            owned.setdefault(found[0], []).append((first, last))
            known = replicas.setdefault(found[0], [])
            known.extend(node for node in found[1:] if node is not None and node not in known)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{asked}: not a reply to CLUSTER SLOTS: {error}") from error
    return Topology(
        tuple(
            Shard(master, tuple(sorted(ranges)), tuple(sorted(replicas[master])))
            for master, ranges in sorted(owned.items())
        ),
        redis_version,
    )


def _node(node: Sequence[Any], asked: Address) -> Address | None:
    host, port = node[0], int(node[1])
    if not (host is None or isinstance(host, bytes)):
        raise ValueError(f"a server's host is {host!r:.100}")
    name = host.decode() if host else asked.host
    return None if name == "?" or not 0 < port < 65536 else Address(name, port)


Answer = tuple[bool, Topology] | Exception
"""Whether a server thinks the cluster well, and what it tells of it; or why it can't be asked."""


class TopologyThread:
    """Keeps one cluster's topology.

    ``publish`` is called, in this thread, whenever it changed, and after each refresh that was asked for.
    """

    def __init__(
        self, cluster: ClusterConfig, publish: Callable[[Topology], None], troubled: Callable[[], bool]
    ) -> None:
        """While ``troubled()``, a change is expected, and the cluster is asked more often."""
        self.current: Topology | None = None
        self.last_error = ""
        self.fetched_at = 0.0
        """When the last fetch succeeded, by time.monotonic()."""
        self.changes = 0
        self._cluster = cluster
        self._publish = publish
        self._troubled = troubled
        self._pool = Pool(f"topology-{cluster.name}", MOST_AT_ONCE)
        self._resolver = Resolver(cluster.name)
        self._wanted = ""
        self._stopping = False
        self._changed = threading.Condition()
        self._last_good: Address | None = None
        self._dead: dict[Address, float] = {}
        self._versions: dict[Address, str] = {}
        self._said: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name=f"topology-{cluster.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def configure(self, cluster: ClusterConfig) -> None:
        """Goes by this configuration from the next fetch on, which is at once."""
        self._cluster = cluster
        self.refresh("configuration")

    def stop(self) -> None:
        """Ends the thread; one that is waiting for a server is left to end by itself."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._pool.close()
        self._resolver.close()
        self._thread.join(0.5)

    def refresh(self, reason: str) -> None:
        """Has the topology fetched as soon as may be; returns at once. A fetch under way does not count."""
        with self._changed:
            self._wanted = self._wanted or reason
            self._changed.notify()

    # --- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            floor = self._cluster.topology_floor / 1000
            steady = self._cluster.topology_interval / 1000
            with self._changed:
                reason, self._wanted = self._wanted, ""
            began = time.monotonic()
            try:
                settled = self._fetch(reason)
            except Exception:
                log.exception("cluster=%s fetching the topology", self._cluster.name)
                settled = False
            # What has somebody ask is often still under way: look again.
            if settled and not self._troubled():
                pause = floor if reason else steady
            else:
                pause = max(floor, UNSETTLED_INTERVAL)
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._wanted, pause)
                # Never more often than the floor, however many ask for it.
                self._changed.wait_for(lambda: self._stopping, began + floor - time.monotonic())

    def _fetch(self, reason: str) -> bool:
        """Asks until one server tells of all slots; False when none did."""
        best: tuple[tuple[bool, int], Topology, Address] | None = None
        for server, answer in self._answers():
            if isinstance(answer, Exception):
                self._dead[server] = time.monotonic() + DEAD_FOR
                self._warn(f"server={server}: {answer}")
                continue
            healthy, topology = answer
            self._dead.pop(server, None)
            rank = (healthy, topology.slots_covered)
            if best is None or rank > best[0]:
                best = (rank, topology, server)
            if healthy and topology.covered:
                break
        if best is None:
            self.last_error = self.last_error or "no server could be reached"
            return False
        (healthy, covered), topology, self._last_good = best
        if not covered:
            self._warn(f"server={self._last_good}: knows of no slot that is served")
            return False
        self.last_error = ""
        self.fetched_at = time.monotonic()
        changed = topology != self.current
        if changed:
            self._tell(topology, reason)
            self.current = topology
            self.changes += 1
        if changed or reason:
            # Whoever asked may have followed a redirection that this one knows better than.
            self._publish(topology)
        return healthy and topology.covered

    def _answers(self) -> "Iterator[tuple[Address, Answer]]":
        """Asks one server after the other; the next one also when the last takes its time."""
        candidates = self._candidates()
        answers: SimpleQueue[tuple[Address, Answer]] = SimpleQueue()
        asked: set[Address] = set()
        while (candidates or asked) and not self._stopping:
            if candidates:
                server = candidates.pop(0)
                asked.add(server)
                self._pool.submit(partial(self._ask, server, answers))
            try:
                server, answer = answers.get(timeout=ASK_PATIENCE)
            except Empty:
                continue
            asked.remove(server)
            # Who has not answered before this one is not the first to be asked the next time.
            self._dead.update(dict.fromkeys(asked, time.monotonic() + DEAD_FOR))
            yield server, answer

    def _candidates(self) -> list[Address]:
        """Whom to ask, the likeliest first: configured servers, all their addresses, then those learnt.

        So it is the configuration that says which cluster is meant, should a name come to mean another.
        """
        configured: list[Address] = []
        for server in self._cluster.servers:
            try:
                configured.extend(self._resolver.addresses(server))
            except OSError as error:
                self._warn(str(error))
        learnt = self.current.servers if self.current else ()
        now = time.monotonic()
        self._dead = {server: until for server, until in self._dead.items() if until > now}

        def order(server: Address) -> tuple[bool, bool, bool]:
            return server in self._dead, server not in configured, server != self._last_good

        return sorted(dict.fromkeys([*configured, *learnt]), key=order)

    def _ask(self, server: Address, answers: "SimpleQueue[tuple[Address, Answer]]") -> None:
        try:
            answers.put((server, self._view_of(server)))
        except (OSError, ReplyError, ValueError) as error:
            answers.put((server, error))
        except Exception as error:  # whoever waits must not do so for ever
            log.exception("cluster=%s server=%s", self._cluster.name, server)
            answers.put((server, error))

    def _view_of(self, server: Address) -> tuple[bool, Topology]:
        """Whether the server thinks the cluster well, and what it tells of it."""
        limit = self._cluster.dial_timeout / 1000 or LONGEST_ASK
        with Connection.to(self._cluster, server, limit) as connection:
            info, slots = connection.pipeline([("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")])
            for reply in (info, slots):
                if isinstance(reply, ReplyError):
                    raise reply
            if server not in self._versions:
                self._versions[server] = field_of(connection.call("INFO", "server"), b"redis_version")
        return field_of(info, b"cluster_state") == "ok", parse_slots(slots, server, self._versions[server])

    def _tell(self, topology: Topology, reason: str) -> None:
        before = set(self.current.masters) if self.current else set()
        now = set(topology.masters)
        log.info(
            "cluster=%s topology: %d masters, %d of %d slots%s%s%s",
            self._cluster.name,
            len(now),
            topology.slots_covered,
            SLOTS,
            _names("; new: ", now - before),
            _names("; gone: ", before - now),
            f" ({reason})" if reason else "",
        )

    def _warn(self, text: str) -> None:
        """Logs a warning, the same one at most every so often; it is also what /readyz tells."""
        self.last_error = text
        now = time.monotonic()
        self._said = {said: at for said, at in self._said.items() if now - at < REPEAT}
        if text not in self._said:
            self._said[text] = now
            log.warning("cluster=%s %s", self._cluster.name, text)


def field_of(info: object, name: bytes) -> str:
    """A field of an INFO or CLUSTER INFO reply; "" when it has none such. Raises ValueError if it is none."""
    if not isinstance(info, bytes):
        raise ValueError(f"not a reply to INFO: {info!r:.100}")
    for line in info.splitlines():
        key, _, value = line.partition(b":")
        if key == name:
            return value.decode()
    return ""


def _names(title: str, servers: Iterable[Address]) -> str:
    text = ", ".join(str(server) for server in sorted(servers))
    return title + text if text else ""
