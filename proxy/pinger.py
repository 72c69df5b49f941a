"""Pings the servers that requests go to, so that one that hangs is known before a client waits for it."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from proxy.address import Address
from proxy.config import ClusterConfig
from proxy.control import Connection, ReplyError
from proxy.pool import Pool

log = logging.getLogger("proxy.pinger")

INTERVAL = 1.0
"""Seconds between two pings of a server."""
TIMEOUT = 0.5
"""Seconds a server may take to connect, and to answer."""
MOST_AT_ONCE = 16


class Pinger:
    """One cluster's pings. ``report(server, alive)`` is called, in the pinger's thread, when that changes."""

    def __init__(
        self,
        cluster: ClusterConfig,
        servers: Callable[[], tuple[Address, ...]],
        report: Callable[[Address, bool], None],
    ) -> None:
        self.failures: dict[Address, int] = {}
        """Pings without an answer, by server, since the start."""
        self.seconds: dict[Address, float] = {}
        """What the last ping of a server took, of those that answered it."""
        self.missing = False
        """Whether a server has not answered its last ping."""
        self._cluster = cluster
        self._limit = max(1, cluster.ping_fail_limit)
        self._servers = servers
        self._report = report
        self._in_a_row: dict[Address, int] = {}
        self._failing: set[Address] = set()
        self._connections: dict[Address, Connection] = {}
        self._stopping = threading.Event()
        self._pool = Pool(f"ping-{cluster.name}", MOST_AT_ONCE)
        self._thread = threading.Thread(target=self._run, name=f"pinger-{cluster.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def configure(self, cluster: ClusterConfig) -> None:
        """Goes by this configuration from the next pings on."""
        self._cluster = cluster
        self._limit = max(1, cluster.ping_fail_limit)

    def stop(self) -> None:
        self._stopping.set()
        self._pool.close()
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            servers = self._servers()
            for gone in set(self._in_a_row) - set(servers):
                self._forget(gone)
            answers: SimpleQueue[tuple[Address, bool]] = SimpleQueue()
            for server in servers:
                self._pool.submit(partial(self._ping, server, answers))
            for _ in servers:
                self._count(*answers.get())
            self.missing = any(self._in_a_row.values())

    def _ping(self, server: Address, answers: "SimpleQueue[tuple[Address, bool]]") -> None:
        began = time.monotonic()
        alive = self._answers(server)
        if alive:
            self.seconds[server] = time.monotonic() - began
        answers.put((server, alive))

    def _answers(self, server: Address) -> bool:
        try:
            connection = self._connections.get(server)
            if connection is None:
                connection = Connection.to(self._cluster, server, TIMEOUT)
                self._connections[server] = connection
            connection.call("PING")
        except (OSError, ReplyError) as error:
            if isinstance(error, ReplyError) and str(error).startswith("BUSY "):
                return True  # it runs a script, and will have to be asked to end it
            log.debug("cluster=%s server=%s ping: %s", self._cluster.name, server, error)
            if broken := self._connections.pop(server, None):
                broken.close()
            return False
        return True

    def _count(self, server: Address, alive: bool) -> None:
        before = self._in_a_row.get(server, 0)
        self._in_a_row[server] = 0 if alive else before + 1
        self.failures.setdefault(server, 0)
        if not alive:
            self.failures[server] += 1
            if before + 1 >= self._limit and server not in self._failing:
                self._failing.add(server)
                log.warning(
                    "cluster=%s server=%s fails its pings (%d)", self._cluster.name, server, before + 1
                )
                self._report(server, False)
        elif server in self._failing:
            self._failing.discard(server)
            log.info("cluster=%s server=%s answers its pings again", self._cluster.name, server)
            self._report(server, True)

    def _forget(self, server: Address) -> None:
        """Drops what is kept of a server that gets no requests any more."""
        del self._in_a_row[server]
        if server in self._failing:
            self._failing.discard(server)
            self._report(server, True)  # should it come back, it starts anew
        self.failures.pop(server, None)
        self.seconds.pop(server, None)
        if connection := self._connections.pop(server, None):
            connection.close()
