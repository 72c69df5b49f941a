"""What /metrics tells: the workers' counters, summed when they are asked for.

Overlord's names, labels and units are kept so that its dashboards go on working; ours follow the
Prometheus conventions (https://prometheus.io/docs/practices/naming/). The data plane counts in
plain C variables, one set a worker, so counting costs it next to nothing. Labels are names of clusters,
servers and commands, and codes of errors that are known: none is a client's to make up.
"""

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.commands import CommandTable
from proxy.counters import Histogram, Snapshot, Totals
from proxy.stats import CODES, LATENCY_BOUNDS, WIDTH_BOUNDS

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
    "slow_requests": "Requests that took longer than slowlog_slower_than.",
}
"""Keys of a Snapshot that are counters, each with a metric of its name."""
CLUSTER_GAUGES = {
    "sessions": ("client_connections", "Client connections."),
    "blocked": ("blocked_clients", "Clients that wait in a blocking command."),
    "parked": ("parked_requests", "Requests that wait for a server that can serve them."),
}
BYTES = {"client": ("client_in", "client_out"), "server": ("server_in", "server_out")}
STATES = ("waiting", "transferring", "deciding")
"""What a worker's time goes into: nothing to do; reading and writing; all else. The first two are without
Python's lock, and so is most of the third."""


class Worker(Protocol):
    """What is read of a worker."""

    def snapshot(self, cluster: int) -> Snapshot: ...

    def totals(self) -> Totals: ...


@dataclass
class ClusterState:
    """What is known of a cluster outside the workers."""

    name: str
    slots_covered: int = 0
    masters: int = 0
    replicas: int = 0
    fetched_seconds_ago: float | None = None
    topology_changes: int = 0
    ping_failures: dict[str, int] = field(default_factory=dict)
    ping_seconds: dict[str, float] = field(default_factory=dict)
    """What the last ping of a server took, of those that answered it."""


@dataclass
class ProcessState:
    """What is known of the process outside the workers."""

    clusters: Sequence[ClusterState]
    ready: bool = True
    accepted: int = 0
    rejected: int = 0
    max_connections: int = 0
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
        yield from self._errors(state, snapshots)
        yield from self._fanout(state, snapshots)
        yield from self._servers(state, snapshots)
        yield from self._clusters(state, snapshots)
        yield from self._topologies(state)
        yield from self._workers_time()
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
            for server, one in _by_server(parts).items():
                errors.add_metric([cluster.name, server, "", "network err"], one.lost + one.refused)
                handler.add_metric([cluster.name, server, ""], *one.latency.overlord())
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

    def _errors(self, state: ProcessState, snapshots: list[list[Snapshot]]) -> Iterator[Metric]:
        errors = CounterMetricFamily(
            "redis_proxy_error_replies",
            "Error replies to clients, by their code.",
            labels=["cluster", "code"],
        )
        for cluster, parts in zip(state.clusters, snapshots, strict=True):
            for code, counts in zip(
                CODES, zip(*(part["errors"] for part in parts), strict=True), strict=True
            ):
                errors.add_metric([cluster.name, code], sum(counts))
        yield errors

    def _fanout(self, state: ProcessState, snapshots: list[list[Snapshot]]) -> Iterator[Metric]:
        width = HistogramMetricFamily(
            "redis_proxy_fanout_width",
            "Parts of commands that were split over several slots or servers.",
            labels=["cluster"],
        )
        for cluster, parts in zip(state.clusters, snapshots, strict=True):
            counts = [sum(bucket) for bucket in zip(*(part["widths"] for part in parts), strict=True)]
            bounds = [*(f"{bound:.1f}" for bound in WIDTH_BOUNDS), "+Inf"]
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            width.add_metric([cluster.name], buckets, sum(part["parts"] for part in parts))
        yield width

    def _servers(self, state: ProcessState, snapshots: list[list[Snapshot]]) -> Iterator[Metric]:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"redis_proxy_server_{name}", text, labels=["cluster", "server"])

        def counter(name: str, text: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"redis_proxy_server_{name}", text, labels=["cluster", "server"])

        open_ = gauge("connections", "Open connections to a server.")
        queued = gauge("queued_requests", "Requests that a server has been given and has not answered yet.")
        lost = counter("connections_lost", "Connections that broke.")
        refused = counter("connections_refused", "Connections that could not be made.")
        ejected = gauge("ejected", "1 while a server fails its pings and is not used.")
        failures = counter("ping_failures", "Pings without an answer.")
        ping = gauge("ping_seconds", "Time the last ping that was answered took.")
        duration = HistogramMetricFamily(
            "redis_proxy_server_duration_seconds",
            "Time a server took to answer.",
            labels=["cluster", "server"],
        )
        for cluster, parts in zip(state.clusters, snapshots, strict=True):
            for server, one in _by_server(parts).items():
                labels = [cluster.name, server]
                open_.add_metric(labels, one.connections)
                queued.add_metric(labels, one.awaited)
                lost.add_metric(labels, one.lost)
                refused.add_metric(labels, one.refused)
                ejected.add_metric(labels, one.ejected)
                duration.add_metric(labels, *one.latency.seconds())
            for server, count in sorted(cluster.ping_failures.items()):
                failures.add_metric([cluster.name, server], count)
            for server, seconds in sorted(cluster.ping_seconds.items()):
                ping.add_metric([cluster.name, server], seconds)
        yield from (open_, queued, lost, refused, ejected, failures, ping, duration)

    def _clusters(self, state: ProcessState, snapshots: list[list[Snapshot]]) -> Iterator[Metric]:
        for key, text in CLUSTER_COUNTERS.items():
            counter = CounterMetricFamily(f"redis_proxy_{key}", text, labels=["cluster"])
            for cluster, parts in zip(state.clusters, snapshots, strict=True):
                counter.add_metric([cluster.name], sum(part[key] for part in parts))  # type: ignore[literal-required]
            yield counter
        for key, (name, text) in CLUSTER_GAUGES.items():
            gauge = GaugeMetricFamily(f"redis_proxy_{name}", text, labels=["cluster"])
            for cluster, parts in zip(state.clusters, snapshots, strict=True):
                gauge.add_metric([cluster.name], sum(part[key] for part in parts))  # type: ignore[literal-required]
            yield gauge

    def _topologies(self, state: ProcessState) -> Iterator[Metric]:
        covered = GaugeMetricFamily(
            "redis_proxy_topology_slots_covered", "Slots that have a server, of 16384.", labels=["cluster"]
        )
        servers = GaugeMetricFamily(
            "redis_proxy_topology_servers", "Servers of the cluster.", labels=["cluster", "role"]
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
            servers.add_metric([cluster.name, "master"], cluster.masters)
            servers.add_metric([cluster.name, "replica"], cluster.replicas)
            changes.add_metric([cluster.name], cluster.topology_changes)
            if cluster.fetched_seconds_ago is not None:
                age.add_metric([cluster.name], cluster.fetched_seconds_ago)
        yield from (covered, servers, age, changes)

    def _workers_time(self) -> Iterator[Metric]:
        totals = [worker.totals() for worker in self._workers]
        yield GaugeMetricFamily("redis_proxy_workers", "Worker threads.", value=len(totals))
        turns = CounterMetricFamily(
            "redis_proxy_turns",
            "Turns of a worker's loop: what came was read, decided, and written.",
            labels=["worker"],
        )
        seconds = CounterMetricFamily(
            "redis_proxy_worker_seconds",
            "What a worker's time went into: waiting for something to do; transferring: reading and writing;"
            " deciding: all else.",
            labels=["worker", "state"],
        )
        for number, total in enumerate(totals):
            turns.add_metric([str(number)], total["turns"])
            for name in STATES:
                seconds.add_metric([str(number), name], total[name] / 1e9)  # type: ignore[literal-required]
        received = CounterMetricFamily(
            "redis_proxy_received_bytes", "Bytes read from clients and from servers.", labels=["peer"]
        )
        sent = CounterMetricFamily(
            "redis_proxy_sent_bytes", "Bytes written to clients and to servers.", labels=["peer"]
        )
        for peer, (read, written) in BYTES.items():
            received.add_metric([peer], sum(total[read] for total in totals))  # type: ignore[literal-required]
            sent.add_metric([peer], sum(total[written] for total in totals))  # type: ignore[literal-required]
        yield from (turns, seconds, received, sent)
        yield GaugeMetricFamily(
            "redis_proxy_buffer_bytes",
            "Memory of the connections' buffers and requests.",
            value=sum(total["buffer_bytes"] for total in totals),
        )
        yield GaugeMetricFamily(
            "redis_proxy_buffer_limit_bytes",
            "memory_limit: the most that may become.",
            value=sum(total["memory_limit"] for total in totals),
        )

    def _process(self, state: ProcessState) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "redis_proxy_build_info", "1; the labels say what runs.", labels=["version", "python"]
        )
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        gauges: dict[str, tuple[float, str]] = {
            "ready": (state.ready, "1 while a client that connects would be served: what /readyz says."),
            "max_connections": (state.max_connections, "Most client connections at once; 0: no limit."),
            "config_epoch": (
                state.config_epoch,
                "1 at the start, and 1 more with each reload that was applied.",
            ),
            "config_loaded_timestamp_seconds": (
                state.config_loaded,
                "When the configuration in force was read.",
            ),
            "config_last_reload_successful": (
                not state.reload_failed,
                "0 while the last reload was refused because of its files.",
            ),
        }
        counters: dict[str, tuple[float, str]] = {
            "connections": (state.accepted, "Client connections accepted."),
            "connections_rejected": (state.rejected, "Client connections turned away at max_connections."),
            "accept_pauses": (state.accept_pauses, "Times accepting paused because descriptors ran out."),
            "log_records_dropped": (state.log_records_dropped, "Log records dropped."),
        }
        for name, (value, text) in gauges.items():
            yield GaugeMetricFamily(f"redis_proxy_{name}", text, value=value)
        for name, (value, text) in counters.items():
            yield CounterMetricFamily(f"redis_proxy_{name}", text, value=value)


class StateSource(Protocol):
    def __call__(self) -> ProcessState: ...


class TableSource(Protocol):
    def __call__(self) -> CommandTable: ...


@dataclass
class _Server:
    """One server as all workers see it."""

    connections: int = 0
    awaited: int = 0
    lost: int = 0
    refused: int = 0
    ejected: bool = False
    latency: Sum = field(default_factory=Sum)


def _by_server(parts: list[Snapshot]) -> dict[str, _Server]:
    found: dict[str, _Server] = {}
    for part in parts:
        for name, connections, awaited, lost, refused, ejected, latency in part["servers"]:
            one = found.setdefault(name, _Server())
            one.connections += connections
            one.awaited += awaited
            one.lost += lost
            one.refused += refused
            one.ejected |= ejected
            one.latency.add(latency)
    return dict(sorted(found.items()))
