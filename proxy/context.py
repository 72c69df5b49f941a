"""What answers may know and do, for one worker and cluster: ``proxy.answers.Context``."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from proxy.answers import Facts, Plane, SlowRecord
from proxy.commands import CommandTable
from proxy.config import ClusterConfig, Config, ProxyConfig
from proxy.counters import Snapshot
from proxy.dataplane import DataPlane
from proxy.fanout import Complete, Pending
from proxy.pubsub import Hub, Tally
from proxy.reply import INTERNAL_ERROR
from proxy.stats import LATENCY_BOUNDS
from proxy.topology import Topology

log = logging.getLogger("proxy.context")


class Control(Protocol):
    """What a worker needs of the process around it."""

    def refresh(self, cluster: int, reason: str) -> None: ...

    def facts(self, cluster: int) -> Facts: ...

    def slow_log(self, cluster: int) -> list[SlowRecord]: ...

    def reset_slow_log(self, cluster: int) -> None: ...


class Worker(Protocol):
    """What a context needs of its worker, and of the others."""

    number: int
    config: Config
    control: Control
    commands: CommandTable
    plane: DataPlane

    @property
    def peers(self) -> "Sequence[Worker]":
        """All workers of the process, this one too."""

    def post(self, message: Callable[[], None]) -> None: ...

    def refresh(self, cluster: int, reason: str) -> None: ...

    def snapshot(self, cluster: int) -> Snapshot: ...


class WorkerContext:
    """For the worker's own thread, but for what it reads of other workers' counters."""

    def __init__(self, worker: Worker, cluster: int, tally: Tally) -> None:
        self.cluster = cluster
        self.topology: Topology | None = None
        self._worker = worker
        worker.plane.heed(cluster, tally.flag)
        self.hub = Hub(
            send=partial(worker.plane.subscriber_send, cluster),
            push=worker.plane.push,
            owner=self._owner,
            masters=self._masters,
            tally=tally,
            refresh=self.refresh,
        )

    @property
    def config(self) -> ClusterConfig:
        return self._worker.config.clusters[self.cluster]

    @property
    def proxy_config(self) -> ProxyConfig:
        return self._worker.config.proxy

    @property
    def facts(self) -> Facts:
        return self._worker.control.facts(self.cluster)

    def _owner(self, slot: int) -> str | None:
        shards = self.topology.shards if self.topology else ()
        return next(
            (str(shard.master) for shard in shards for first, last in shard.ranges if first <= slot <= last),
            None,
        )

    def _masters(self) -> list[str]:
        return [str(master) for master in self.topology.masters] if self.topology else []

    def refresh(self, reason: str) -> None:
        self._worker.refresh(self.cluster, reason)

    def everywhere(self, ask: Callable[[Plane], Any], merge: Callable[[list[Any]], bytes]) -> Pending:
        """Asks every worker in its own thread; the merged results, which come in no order, are the reply."""

        def start(complete: Complete) -> None:
            results: list[Any] = []

            def collect(result: Any) -> None:
                results.append(result)
                if len(results) == len(self._worker.peers):
                    complete(_merged(merge, results))

            def tell(result: Any) -> None:
                self._worker.post(partial(collect, result))

            for peer in self._worker.peers:
                peer.post(partial(_ask, peer, ask, tell))

        return Pending(start)

    def slow_log(self) -> list[SlowRecord]:
        """The slow log of all workers, oldest first."""
        return self._worker.control.slow_log(self.cluster)

    def reset_slow_log(self) -> None:
        self._worker.control.reset_slow_log(self.cluster)

    def latencies(self) -> dict[str, tuple[int, list[tuple[int, int]]]]:
        """By command: calls, and how many of them took at most so many µs, for each bound."""
        found: dict[str, tuple[int, list[tuple[int, int]]]] = {}
        for worker in self._worker.peers:
            for command, _, (count, _, buckets) in worker.snapshot(self.cluster)["commands"]:
                name = self._worker.commands.commands[command].name
                if name:
                    calls, bounds = found.get(name, (0, [(bound, 0) for bound in LATENCY_BOUNDS]))
                    running, total = [], 0
                    for (bound, before), more in zip(bounds, buckets, strict=False):
                        total += more
                        running.append((bound, before + total))
                    found[name] = calls + count, running
        return found


def _ask(peer: Worker, ask: Callable[[Plane], Any], tell: Callable[[Any], None]) -> None:
    try:
        tell(ask(peer.plane))
    except Exception as error:
        log.exception("asking worker %d", peer.number)
        tell(error)


def _merged(merge: Callable[[list[Any]], bytes], results: list[Any]) -> bytes:
    if any(isinstance(result, Exception) for result in results):
        return INTERNAL_ERROR
    try:
        return merge(results)
    except Exception:
        log.exception("merging what the workers told")
        return INTERNAL_ERROR
