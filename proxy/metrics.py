"""What /metrics tells: the workers' counters, summed when they are asked for.

Overlord's names, labels and units are kept so that its dashboards go on working; ours follow the
Prometheus conventions (https://prometheus.io/docs/practices/naming/). The data plane counts in
plain C variables, one set a worker, so counting costs it next to nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.commands import CommandTable
from proxy.counters import Histogram, Snapshot, Totals
from proxy.sessions import LATENCY_BOUNDS

OVERLORD_BOUNDS = (1_000, 2_000, 4_000, 10_000)
"""µs: the buckets of Overlord's histograms."""

CLUSTER_COUNTERS = {
    "moved": "Requests a server answered with MOVED; they were sent on.",
    "asked": "Requests a server answered with ASK; they were sent on.",
    "retried": "Requests sent again: redirected, or their server could not serve them yet.",
    "timeouts": "Requests and servers that ran out of time.",
    "unknown_outcomes": "Requests sent, and not answered before their connection broke.",
    "output_overflows": "Sessions closed because they left more replies unread than output_limit.",
    "evicted": "Sessions closed because memory_limit was reached and they held the most.",
    "turned_away": "Requests refused because of memory_limit.",
    "protocol_errors": "Sessions closed because what they sent is not RESP.",
}
TOTALS = {
    "turns": "Turns of the workers' loops.",
    "bytes_in": "Bytes read from clients and servers.",
    "bytes_out": "Bytes written to clients and servers.",
}


class Worker(Protocol):
    """What is read of a worker."""

    def snapshot(self, cluster: int) -> Snapshot: ...

    def totals(self) -> Totals: ...


@dataclass
class ClusterState:
    """What is known of a cluster outside the workers."""

    name: str
    slots_covered: int = 0
    fetched_seconds_ago: float | None = None
    topology_changes: int = 0
    ping_failures: dict[str, int] = field(default_factory=dict)


@dataclass
class ProcessState:
    """What is known of the process outside the workers."""

    clusters: Sequence[ClusterState]
    accepted: int = 0
    rejected: int = 0
    accept_pauses: int = 0
    log_records_dropped: int = 0
    config_epoch: int = 1
    config_loaded: float = 0.0
    """When, in seconds since 1970."""
    reload_failed: bool = False


class Sum:
    """Histograms of several workers added up."""

    def __init__(self) -> None:
        self.count = 0
        self.nanoseconds = 0
        self.buckets = [0] * (len(LATENCY_BOUNDS) + 1)

    def add(self, histogram: Histogram) -> None:
        count, nanoseconds, buckets = histogram
        self.count += count
        self.nanoseconds += nanoseconds
        for i, value in enumerate(buckets):
            self.buckets[i] += value

    def seconds(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets by upper bound in seconds, and the sum in seconds."""
        return self._cumulative(LATENCY_BOUNDS, 1e6), self.nanoseconds / 1e9

    def overlord(self) -> tuple[list[tuple[str, float]], float]:
        """The same in Overlord's buckets and in µs."""
        return self._cumulative(OVERLORD_BOUNDS, 1), self.nanoseconds / 1e3

    def _cumulative(self, bounds: Iterable[int], per_unit: float) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        for bound in bounds:
            below = sum(self.buckets[: LATENCY_BOUNDS.index(bound) + 1])
            found.append((f"{bound / per_unit:g}" if per_unit != 1 else str(bound), below))
        found.append(("+Inf", sum(self.buckets)))
        return found


class ProxyCollector(Collector):
    """Asks the workers when Prometheus asks us."""

    def __init__(self, workers: Sequence[Worker], state: "StateSource", table: "TableSource") -> None:
        self._workers = workers
        self._state = state
        self._table = table

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        snapshots = [
            [worker.snapshot(index) for worker in self._workers] for index in range(len(state.clusters))
        ]
        yield from self._overlord(state, snapshots)
        yield from self._requests(state, snapshots)
        yield from self._servers(state, snapshots)
        yield from self._cluster_counters(state, snapshots)
        yield from self._process(state)

    def _overlord(self, state: ProcessState, snapshots: list[list[Snapshot]]) -> Iterator[Metric]:
        connections = GaugeMetricFamily("overlord_proxy_conns", "Client connections.", labels=["cluster"])
        errors = GaugeMetricFamily(
            "overlord_proxy_err",
            "Network errors towards servers.",
            labels=["cluster", "node", "cmd", "error"],
        )
        timer = HistogramMetricFamily(
            "overlord_proxy_timer", "Time from request to reply, µs.", labels=["cluster", "cmd"]
        )
        handler = HistogramMetricFamily(
            "overlord_proxy_handler_timer",
            "Time a server took to answer, µs.",
            labels=["cluster", "node", "cmd"],
        )
        for cluster, parts in zip(state.clusters, snapshots, strict=True):
            connections.add_metric([cluster.name], sum(part["sessions"] for part in parts))
            total = Sum()
            for part in parts:
                for _, _, latency in part["commands"]:
                    total.add(latency)
            timer.add_metric([cluster.name, ""], *total.overlord())
            for server, (_, lost, refused, _, answered) in _by_server(parts).items():
                errors.add_metric([cluster.name, server, "", "network err"], lost + refused)
                handler.add_metric([cluster.name, server, ""], *answered.overlord())
        version = GaugeMetricFamily("overlord_proxy_version", "The proxy's version.", labels=["version"])
        version.add_metric([__version__], 1)
        yield from (connections, errors, timer, handler, version)

    def _requests(self, state: ProcessState, snapshots: list[list[Snapshot]]) -> Iterator[Metric]:
        labels = ["cluster", "command"]
        requests = CounterMetricFamily("redis_proxy_requests", "Requests answered.", labels=labels)
        errors = CounterMetricFamily(
            "redis_proxy_request_errors", "Requests answered with an error reply.", labels=labels
        )
        duration = HistogramMetricFamily(
            "redis_proxy_request_duration_seconds", "Time from request to reply.", labels=labels
        )
        commands = self._table().commands
        for cluster, parts in zip(state.clusters, snapshots, strict=True):
            sums: dict[int, tuple[int, Sum]] = {}
            for part in parts:
                for command, failed, latency in part["commands"]:
                    before, total = sums.get(command, (0, Sum()))
                    total.add(latency)
                    sums[command] = (before + failed, total)
            for command, (failed, total) in sorted(sums.items()):
                name = commands[command].name if command < len(commands) else "unknown"
                requests.add_metric([cluster.name, name], total.count)
                errors.add_metric([cluster.name, name], failed)
                duration.add_metric([cluster.name, name], *total.seconds())
        yield from (requests, errors, duration)

    def _servers(self, state: ProcessState, snapshots: list[list[Snapshot]]) -> Iterator[Metric]:
        labels = ["cluster", "server"]
        open_ = GaugeMetricFamily(
            "redis_proxy_server_connections", "Open connections to a server.", labels=labels
        )
        lost = CounterMetricFamily(
            "redis_proxy_server_connections_lost", "Connections that broke.", labels=labels
        )
        refused = CounterMetricFamily(
            "redis_proxy_server_connections_refused", "Connections that could not be made.", labels=labels
        )
        ejected = GaugeMetricFamily(
            "redis_proxy_server_ejected", "1 while a server fails its pings and is not used.", labels=labels
        )
        pings = CounterMetricFamily(
            "redis_proxy_server_ping_failures", "Pings without an answer.", labels=labels
        )
        duration = HistogramMetricFamily(
            "redis_proxy_server_duration_seconds", "Time a server took to answer.", labels=labels
        )
        for cluster, parts in zip(state.clusters, snapshots, strict=True):
            for server, (count, broken, unmade, out, latency) in _by_server(parts).items():
                open_.add_metric([cluster.name, server], count)
                lost.add_metric([cluster.name, server], broken)
                refused.add_metric([cluster.name, server], unmade)
                ejected.add_metric([cluster.name, server], out)
                duration.add_metric([cluster.name, server], *latency.seconds())
            for server, failures in sorted(cluster.ping_failures.items()):
                pings.add_metric([cluster.name, server], failures)
        yield from (open_, lost, refused, ejected, pings, duration)

    def _cluster_counters(self, state: ProcessState, snapshots: list[list[Snapshot]]) -> Iterator[Metric]:
        for key, text in CLUSTER_COUNTERS.items():
            family = CounterMetricFamily(f"redis_proxy_{key}", text, labels=["cluster"])
            for cluster, parts in zip(state.clusters, snapshots, strict=True):
                family.add_metric([cluster.name], sum(part[key] for part in parts))  # type: ignore[literal-required]
            yield family
        blocked = GaugeMetricFamily(
            "redis_proxy_blocked_clients", "Clients that wait in a blocking command.", labels=["cluster"]
        )
        for cluster, parts in zip(state.clusters, snapshots, strict=True):
            blocked.add_metric([cluster.name], sum(part["blocked"] for part in parts))
        yield blocked
        covered = GaugeMetricFamily(
            "redis_proxy_topology_slots_covered", "Slots that have a server, of 16384.", labels=["cluster"]
        )
        age = GaugeMetricFamily(
            "redis_proxy_topology_age_seconds",
            "Time since the topology was last fetched.",
            labels=["cluster"],
        )
        changes = CounterMetricFamily(
            "redis_proxy_topology_changes",
            "Topologies that differed from the one before.",
            labels=["cluster"],
        )
        for cluster in state.clusters:
            covered.add_metric([cluster.name], cluster.slots_covered)
            changes.add_metric([cluster.name], cluster.topology_changes)
            if cluster.fetched_seconds_ago is not None:
                age.add_metric([cluster.name], cluster.fetched_seconds_ago)
        yield from (covered, age, changes)

    def _process(self, state: ProcessState) -> Iterator[Metric]:
        totals = [worker.totals() for worker in self._workers]
        for key, text in TOTALS.items():
            yield CounterMetricFamily(
                f"redis_proxy_{key}",
                text,
                value=sum(total[key] for total in totals),  # type: ignore[literal-required]
            )
        yield GaugeMetricFamily(
            "redis_proxy_buffer_bytes",
            "Memory of the connections' buffers and requests.",
            value=sum(total["buffer_bytes"] for total in totals),
        )
        yield GaugeMetricFamily("redis_proxy_workers", "Worker threads.", value=len(totals))
        yield CounterMetricFamily(
            "redis_proxy_connections", "Client connections accepted.", value=state.accepted
        )
        yield CounterMetricFamily(
            "redis_proxy_connections_rejected",
            "Client connections turned away at max_connections.",
            value=state.rejected,
        )
        yield CounterMetricFamily(
            "redis_proxy_accept_pauses",
            "Times accepting paused because descriptors ran out.",
            value=state.accept_pauses,
        )
        yield CounterMetricFamily(
            "redis_proxy_log_records_dropped", "Log records dropped.", value=state.log_records_dropped
        )
        yield GaugeMetricFamily(
            "redis_proxy_config_epoch",
            "1 at the start, and 1 more with each reload that was applied.",
            value=state.config_epoch,
        )
        yield GaugeMetricFamily(
            "redis_proxy_config_loaded_timestamp_seconds",
            "When the configuration in force was read.",
            value=state.config_loaded,
        )
        yield GaugeMetricFamily(
            "redis_proxy_config_last_reload_successful",
            "0 while the last reload was refused because of its files.",
            value=not state.reload_failed,
        )


class StateSource(Protocol):
    def __call__(self) -> ProcessState: ...


class TableSource(Protocol):
    def __call__(self) -> CommandTable: ...


def _by_server(parts: list[Snapshot]) -> dict[str, tuple[int, int, int, bool, Sum]]:
    found: dict[str, tuple[int, int, int, bool, Sum]] = {}
    for part in parts:
        for name, count, lost, refused, ejected, latency in part["servers"]:
            before = found.get(name, (0, 0, 0, False, Sum()))
            before[4].add(latency)
            found[name] = (
                before[0] + count,
                before[1] + lost,
                before[2] + refused,
                before[3] or ejected,
                before[4],
            )
    return dict(sorted(found.items()))
