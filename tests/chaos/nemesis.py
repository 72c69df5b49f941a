"""What goes wrong: one thing at a time with the servers, and proxies beside it."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from lab.processes import wait_until
from lab.proxy_process import ProxyProcess
from lab.redis_cluster import SLOTS, RedisCluster, RedisServer
from proxy.address import Address
from proxy.control import Connection, ReplyError
from proxy.slots import slot_of
from tests.chaos.checker import Circumstances, Window
from tests.chaos.sessions import Clients

CALM = (0.2, 1.5)
"""Seconds between two faults."""
PROMOTED = b"I'm the new master"
"""In a server's log: the others have elected it."""
AFTERMATH = 2.0
"""Seconds until the last client has seen that its connection is gone."""


class Nemesis:
    """Makes faults, undoes them, and notes what they explain."""

    def __init__(
        self,
        cluster: RedisCluster,
        proxies: Sequence[ProxyProcess],
        clients: Clients,
        seed: int,
    ) -> None:
        self._cluster = cluster
        self._proxies = proxies
        self._clients = clients
        self._rng = random.Random(seed)
        self.circumstances = Circumstances()
        self.faults = Counter[str]()
        self.promotions = 0
        """Of replicas, so far."""
        self._well_at = time.monotonic()
        self.failed: list[str] = []
        """Proxies that did not end as they should have."""
        self.log: list[str] = []
        """What was done, and when."""

    def rage(self, seconds: float) -> None:
        """Raises TimeoutError when the cluster does not become well again."""
        deadline = time.monotonic() + seconds
        faults: dict[Callable[[], None], int] = {
            self._kill: 3,
            self._stop: 3,
            self._cut: 3,
            self._lose: 1,
            self._hand_over: 2,
            self._slow_down: 1,
            self._reshard: 3,
        }
        while time.monotonic() < deadline:
            self._wait(self._rng.uniform(*CALM))
            (fault,) = self._rng.choices(list(faults), list(faults.values()))
            self._strike(fault)
        self._note_promotions()

    def _strike(self, fault: Callable[[], None]) -> None:
        fault()
        self._cluster.wait_until_well()
        self._note_promotions()

    def _note(self, what: str) -> None:
        self.log.append(f"{time.time():.3f} {time.monotonic():.3f} {what}")

    def _count(self, fault: str, whom: object) -> None:
        self.faults[fault] += 1
        self._note(f"{fault}: {whom}")

    def _note_promotions(self) -> None:
        """Since the cluster was last known to be well; a machine that is busy may cause some too."""
        logs = [node.directory / "log" for node in self._cluster.nodes]
        promotions = sum(log.read_bytes().count(PROMOTED) for log in logs)
        now = time.monotonic()
        if promotions > self.promotions:
            self.circumstances.failovers.append(Window(self._well_at, now))
        self._note(f"well; promotions: {promotions - self.promotions}")
        self.promotions, self._well_at = promotions, now

    def _wait(self, seconds: float) -> None:
        """Meanwhile proxies may have their faults."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._rng.random() < 0.02:
                self._strike_a_proxy()
            time.sleep(0.05)

    # --- of servers ----------------------------------------------------------------------------

    def _victim(self) -> RedisServer:
        """A master, mostly."""
        masters = self._cluster.masters
        replicas = [node for node in self._cluster.running if node not in masters]
        return self._rng.choice(masters * 3 + replicas)

    def _kill(self) -> None:
        victim = self._victim()
        self._count("server killed (kill -9)", victim.address)
        victim.kill()
        self._wait(self._rng.uniform(0, 4))
        victim.start()

    def _stop(self) -> None:
        victim = self._victim()
        self._count("server stopped (SIGSTOP)", victim.address)
        victim.pause()
        try:
            self._wait(self._rng.uniform(0.1, 4))
        finally:
            victim.resume()

    def _cut(self) -> None:
        victim = self._victim()
        self._count("server cut off the network", victim.address)
        victim.cut()
        try:
            self._wait(self._rng.uniform(0.1, 4))
        finally:
            victim.mend()

    def _lose(self) -> None:
        """A master goes on alone for a moment and dies: what it was told then is lost to the cluster."""
        master = self._rng.choice(self._cluster.masters)
        replica = self._cluster.replica_of(master)
        self._count("server killed while its replica was cut off", master.address)
        replica.cut()
        try:
            self._wait(self._rng.uniform(0.1, 0.8))
            master.kill()
        finally:
            replica.mend()
        self._wait(self._rng.uniform(2, 4))
        master.start()

    def _hand_over(self) -> None:
        master = self._rng.choice(self._cluster.masters)
        replica = self._cluster.replica_of(master)
        self._count("CLUSTER FAILOVER", replica.address)
        replica.call("CLUSTER", "FAILOVER")
        with suppress(TimeoutError):  # it may fail, and then nothing has happened
            wait_until(f"{replica.address} is a master", lambda: replica.role() == "master", 10)

    def _slow_down(self) -> None:
        """It runs a third of the time."""
        victim = self._victim()
        self._count("server slowed down", victim.address)
        deadline = time.monotonic() + self._rng.uniform(0.5, 4)
        try:
            while time.monotonic() < deadline:
                victim.pause()
                time.sleep(0.06)
                victim.resume()
                time.sleep(0.03)
        finally:
            victim.resume()

    def _reshard(self) -> None:
        for _ in range(self._rng.randint(1, 12)):
            source, target = self._rng.sample(self._cluster.masters, 2)
            slot = self._slot_of(source)
            self._count("slot moved", f"{slot}, {source.address} to {target.address}")
            for _ in self._cluster.move_slot(slot, target, batch=self._rng.choice((1, 10))):
                self._wait(0.05)

    def _slot_of(self, master: RedisServer) -> int:
        """One that has keys, if chance finds it."""
        key = master.call("RANDOMKEY")
        return slot_of(key) if key else self._rng.randrange(SLOTS)

    # --- of proxies ----------------------------------------------------------------------------

    def _strike_a_proxy(self) -> None:
        number = self._rng.randrange(len(self._proxies))
        proxy = self._proxies[number]
        faults: dict[Callable[[int, ProxyProcess], None], int] = {
            self._terminate: 2,
            self._kill_proxy: 2,
            self._reload: 2,
            self._suspend: 1,
            self._kill_client: 4,
        }
        (fault,) = self._rng.choices(list(faults), list(faults.values()))
        fault(number, proxy)

    def _interrupt(self, number: int, began: float) -> None:
        self.circumstances.interruptions[number].append(Window(began, time.monotonic() + AFTERMATH))

    def _terminate(self, number: int, proxy: ProxyProcess) -> None:
        self._count("proxy restarted (SIGTERM)", number)
        self._restart(number, proxy, signal.SIGTERM, 0)

    def _kill_proxy(self, number: int, proxy: ProxyProcess) -> None:
        self._count("proxy killed (kill -9)", number)
        self._restart(number, proxy, signal.SIGKILL, -signal.SIGKILL)

    def _restart(self, number: int, proxy: ProxyProcess, by: signal.Signals, status: int) -> None:
        began = time.monotonic()
        proxy.process.send_signal(by)
        if proxy.process.wait(30) != status:
            self.failed.append(f"proxy {number} ended with {proxy.returncode} by {by.name}")
        proxy.start()
        self._interrupt(number, began)

    def _reload(self, number: int, proxy: ProxyProcess) -> None:
        self._count("proxy reloaded (SIGHUP)", number)
        proxy.configure(cluster={"slowlog_slower_than": self._rng.randrange(1000)})
        proxy.process.send_signal(signal.SIGHUP)

    def _suspend(self, number: int, proxy: ProxyProcess) -> None:
        self._count("proxy stopped (SIGSTOP)", number)
        proxy.process.send_signal(signal.SIGSTOP)
        time.sleep(self._rng.uniform(0.05, 1))
        proxy.process.send_signal(signal.SIGCONT)

    def _kill_client(self, number: int, proxy: ProxyProcess) -> None:
        ids = [live.id for live in self._clients.live.values() if live.proxy == number]
        if not ids:
            return
        self._count("connection killed (CLIENT KILL)", number)
        began = time.monotonic()
        with (
            suppress(OSError, ReplyError),
            Connection.open(Address("127.0.0.1", proxy.port), timeout=30) as connection,
        ):
            connection.call("CLIENT", "KILL", "ID", self._rng.choice(ids))
        self._interrupt(number, began)
