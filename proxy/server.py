"""The process: listeners, signals and timers in the main thread, and everything it starts and ends."""

import itertools
import logging
import math
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from proxy import __version__, pprof, reload, systemd
from proxy import log as logs
from proxy.address import Address
from proxy.answers import Facts, SlowRecord
from proxy.commands import TABLE
from proxy.config import Config, ConfigError, Options
from proxy.control import Connection, ReplyError
from proxy.descriptors import Descriptors
from proxy.dialer import Dialer
from proxy.listeners import OUT_OF_DESCRIPTORS, Listener, open_listeners, prepare
from proxy.metrics import ClusterState, ProcessState, ProxyCollector
from proxy.pinger import Pinger
from proxy.pubsub import Tally
from proxy.slowlog import SlowLogFile, report, slow_record
from proxy.stat_server import Page, Query, Reply, StatServer, json_page
from proxy.topology import Topology, TopologyThread
from proxy.watched_files import WatchedFiles
from proxy.worker import Worker
from proxy.zones import Zones

log = logging.getLogger("proxy.server")

ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
SIGNALS = ENDING | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
TOO_MANY_CLIENTS = b"-ERR max number of clients reached\r\n"
ACCEPTS_AT_ONCE = 64
ACCEPT_PAUSE = 0.2
"""Seconds accepting rests when descriptors have run out."""
TICK = 1.0
"""Seconds between two looks at whether the workers make turns."""
HUNG_AFTER = 5
"""Ticks without a turn after which a worker is said to hang."""
LAST_REQUEST = 1.0
"""Seconds in which an idle session may come with one more request before it is closed."""
STARTING_TICK = 0.02
ENDING_TICK = 0.02
STARTING_PATIENCE = 5.0
"""Seconds after which we call ourselves ready although a cluster has not been reached."""


class Server:
    """Everything one process runs."""

    def __init__(
        self, config: Config, options: Options, load: Callable[[], Config], watched: WatchedFiles
    ) -> None:
        """Listens on every address; raises OSError when one can't be had.

        ``load`` reads the configuration again; it raises ConfigError. It is called when ``watched`` change.
        """
        self.config = config
        self._load = load
        self._files = watched
        self._config_epoch, self._config_loaded = 1, time.time()
        self._reload_failed = False
        self._needs_restart: tuple[str, ...] = ()
        self._ready = False
        self._watched = systemd.watchdog_interval() is not None
        self._ids = itertools.count(1)
        self._accepted = self._rejected = self._accept_pauses = 0
        self._withdrawn = False
        self._ending = False
        self._end_at = math.inf
        self._broken = False
        self._hangs: Counter[int] = Counter()
        self._started = time.time()
        self._table = TABLE
        self._learnt: set[tuple[int, str]] = set()
        self._listeners: list[Listener] = []
        self._stat_servers: list[StatServer] = []
        self._slow_file: SlowLogFile | None = None
        self._selector = selectors.DefaultSelector()
        self._descriptors = Descriptors()
        self._accepting = True
        count = config.proxy.threads or len(os.sched_getaffinity(0))
        self._dialer = Dialer(self._descriptors)
        tallies = [Tally() for _ in config.clusters]
        self._workers = [
            Worker(n, count, config, control=self, dialer=self._dialer, tallies=tallies) for n in range(count)
        ]
        for worker in self._workers:
            worker.peers = self._workers
        self._zones = [Zones(cluster) for cluster in config.clusters]
        self._slow_seen: dict[tuple[int, int], int] = {}
        self._topologies = [
            TopologyThread(cluster, partial(self._publish, index), partial(self._troubled, index))
            for index, cluster in enumerate(config.clusters)
        ]
        self._pingers = [
            Pinger(cluster, partial(self._pinged, index), partial(self._report, index))
            for index, cluster in enumerate(config.clusters)
        ]
        try:
            self._listeners = open_listeners(config.clusters, systemd.passed_sockets())
            self._open_stat_servers()
            if options.slowlog:
                self._slow_file = SlowLogFile(
                    Path(options.slowlog),
                    options.slower_max_bytes,
                    options.slower_backup_count,
                    [cluster.name for cluster in config.clusters],
                    self._workers,
                )
        except OSError:
            self._close_listeners()
            raise

    def _open_stat_servers(self) -> None:
        names = [cluster.name for cluster in self.config.clusters]
        stat: dict[str, Page] = {
            "/readyz": self._readiness,
            "/healthz": self._health,
            "/status": self._status,
            "/slowlog": lambda _: json_page(200, report(names, self._workers)),
        }
        if self.config.proxy.use_metrics:
            stat["/metrics"] = self._metrics_page()
        debug = pprof.pages(names, self._workers)
        pages: dict[Address, dict[str, Page]] = {}
        for address, part in ((self.config.proxy.stat, stat), (self.config.proxy.pprof, debug)):
            if address is not None:
                pages.setdefault(address, {}).update(part)
        for address, part in pages.items():
            try:
                self._stat_servers.append(StatServer(address, part))
            except OSError as error:
                raise OSError(error.errno, f"stat or pprof: listen on {address}: {error.strerror}") from error

    # --- the main loop -----------------------------------------------------------------------

    def run(self) -> int:
        """Serves until a signal asks to end; returns the exit status."""
        wake, woken = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        self._selector.register(wake, selectors.EVENT_READ)
        threading.excepthook = partial(self._thread_died, woken)
        self._start()
        try:
            return self._loop(wake)
        finally:
            self._stop()
            signal.set_wakeup_fd(-1)
            wake.close()
            woken.close()

    def _start(self) -> None:
        for worker in self._workers:
            worker.set_commands(self._table)
            worker.start()
        for topology in self._topologies:
            topology.start()
        for pinger in self._pingers:
            pinger.start()
        for stat_server in self._stat_servers:
            stat_server.start()
        if self._slow_file:
            self._slow_file.start()
        for listener in self._listeners:
            self._selector.register(listener.socket, selectors.EVENT_READ, listener)
            cluster = self.config.clusters[listener.cluster]
            log.info(
                "cluster=%s listening on %s, %d workers", cluster.name, listener.address, len(self._workers)
            )

    def _loop(self, wake: socket.socket) -> int:
        resume_at: float | None = None
        next_tick = 0.0
        while True:
            pause = TICK if self._ready else STARTING_TICK
            pause = min(pause if resume_at is None else ACCEPT_PAUSE, self._end_at - time.monotonic())
            for key, _ in self._selector.select(max(pause, 0)):
                if isinstance(key.data, Listener):
                    if not self._accept(key.data):
                        resume_at = time.monotonic() + ACCEPT_PAUSE
                        self._pause_accepting()
                        break
                else:
                    self._take_signals(wake)
            if time.monotonic() >= self._end_at:
                return self._end(wake)
            if resume_at is not None and time.monotonic() >= resume_at and not self._descriptors.scarce:
                resume_at = None
                self._resume_accepting()
            if self._broken:
                return 1
            if not self._ready:
                self._tell_when_ready()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK
                self._feed_watchdog()
                if self._files.changed():
                    self._reload()

    def _tell_when_ready(self) -> None:
        """READY once every cluster is known, or has been given time enough: clients are served anyway."""
        if all(topology.current for topology in self._topologies) or (
            time.time() - self._started > STARTING_PATIENCE
        ):
            self._ready = True
            _notify(READY=1, STATUS=f"serving, configuration {self._config_epoch}")

    def _feed_watchdog(self) -> None:
        """Only while every worker goes on making turns; systemd ends a process that doesn't feed it."""
        turning = [worker.pulse() for worker in self._workers]
        if self._watched and all(turning):
            _notify(WATCHDOG=1)
        for worker, turns in zip(self._workers, turning, strict=True):
            self._hangs[worker.number] = 0 if turns else self._hangs[worker.number] + 1
            if self._hangs[worker.number] == HUNG_AFTER:
                log.error(
                    "%s makes no turns; it is at\n%s", worker.thread.name, pprof.stack_of(worker.thread)
                )

    def _thread_died(self, woken: socket.socket, died: threading.ExceptHookArgs) -> None:
        """Ends the process, in order, after a bug: without one of its threads it would be half dead."""
        threading.__excepthook__(died)  # on stderr too, wherever the log goes
        name = died.thread.name if died.thread else "a thread"
        trace = (died.exc_type, died.exc_value or died.exc_type(), died.exc_traceback)
        log.critical("%s ended by a bug: so does the process", name, exc_info=trace)
        self._broken = True
        with suppress(OSError):  # it has something to read already, or is ending anyway
            woken.send(b"\0")

    def _take_signals(self, wake: socket.socket) -> bool:
        """Does what the signals that came ask for; whether one of them asks to end."""
        numbers = set(wake.recv(64))
        if signal.SIGHUP in numbers:
            self._reload()
        if signal.SIGUSR1 in numbers:
            logs.reopen()
        if signal.SIGUSR2 in numbers:
            self._withdraw()
        asked = numbers & ENDING
        if asked:
            self._ask_to_end(at_once=self._ending or asked != {signal.SIGTERM})
        return bool(asked)

    def _withdraw(self) -> None:
        """Has load balancers send nobody any more, or, the second time, send clients again."""
        self._withdrawn = not self._withdrawn
        log.warning("SIGUSR2: %s", "draining: /readyz says 503" if self._withdrawn else "draining no more")
        _notify(STATUS="serving, but draining" if self._withdrawn else "serving")

    def _ask_to_end(self, *, at_once: bool) -> None:
        """First /readyz says so; clients are served as before until ``drain_delay`` is over."""
        self._ending = True
        delay = 0 if at_once else self.config.proxy.drain_delay
        self._end_at = time.monotonic() + delay / 1000
        if delay:
            log.info("ending in %d ms: /readyz says 503", delay)
            _notify(STOPPING=1, STATUS=f"draining: ends in {delay} ms")

    def _reload(self) -> None:
        """Applies what the files say now; files that can't be used change nothing."""
        try:
            new = self._load()
        except ConfigError as error:
            self._reload_failed = True
            log.error("reload: %s; nothing has changed", error)
            _notify(STATUS=f"serving, configuration {self._config_epoch}; reload refused: {error}")
            return
        changes = reload.compare(self.config, new)
        self.config = reload.reloaded(self.config, new)
        logs.configure(self.config.proxy)
        for worker in self._workers:
            worker.configure(self.config)
        for index, cluster in enumerate(self.config.clusters):
            self._topologies[index].configure(cluster)
            self._pingers[index].configure(cluster)
        self._config_epoch += 1
        self._config_loaded = time.time()
        self._reload_failed = False
        self._needs_restart = changes.restart
        (log.warning if changes.restart else log.info)("reload: %s", changes)
        _notify(STATUS=f"serving, configuration {self._config_epoch}; {changes}")

    def _accept(self, listener: Listener) -> bool:
        """Takes the clients that wait; False when all descriptors are taken that clients may have."""
        limit = self.config.proxy.max_connections
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                client, _ = listener.socket.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    log.error("accept: %s; accepting pauses", error.strerror)
                    return False
                continue  # that client has gone already
            self._accepted += 1
            enough = self._descriptors.leaves_enough(client.fileno())
            if limit and sum(worker.load for worker in self._workers) >= limit:
                self._rejected += 1
                client.setblocking(False)
                try:
                    client.send(TOO_MANY_CLIENTS)
                except OSError:
                    log.debug("a client that was to be turned away has gone")
                client.close()
                continue
            try:
                prepare(client, self.config.proxy.tcp_keepalive)
            except OSError:
                client.close()
                continue
            worker = min(self._workers, key=lambda worker: worker.load)
            worker.add_session(listener.cluster, client.detach(), next(self._ids))
            if not enough:
                log.error(
                    "accept: the limit of %d descriptors is near; accepting pauses", self._descriptors.limit
                )
                return False
        return True

    def _pause_accepting(self) -> None:
        self._accepting = False
        self._accept_pauses += 1
        for listener in self._listeners:
            self._selector.unregister(listener.socket)

    def _resume_accepting(self) -> None:
        self._accepting = True
        for listener in self._listeners:
            self._selector.register(listener.socket, selectors.EVENT_READ, listener)

    def _end(self, wake: socket.socket) -> int:
        """Accepts no more, lets what is in flight finish; a second signal does not wait for that."""
        _notify(STOPPING=1, STATUS="ending: requests in flight are finished")
        self._close_listeners()
        limit = self.config.proxy.shutdown_timeout
        deadline = time.monotonic() + limit / 1000
        log.info("ending: %d sessions open", sum(worker.load for worker in self._workers))
        for worker in self._workers:
            worker.drain(min(LAST_REQUEST, limit / 1000))
        while open_ := sum(worker.load for worker in self._workers):
            if time.monotonic() >= deadline:
                log.warning("%d sessions closed after %d ms", open_, limit)
                break
            if any(
                key.fileobj is wake and self._take_signals(wake)
                for key, _ in self._selector.select(ENDING_TICK)
            ):
                break
        return 0

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        keys = [key for key in self._selector.get_map().values() if isinstance(key.data, Listener)]
        for key in keys:
            self._selector.unregister(key.fileobj)

    def _stop(self) -> None:
        self._close_listeners()
        for pinger in self._pingers:
            pinger.stop()
        for topology in self._topologies:
            topology.stop()
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.thread.join(5)
        self._dialer.close()
        if self._slow_file:
            self._slow_file.stop()
        for stat_server in self._stat_servers:
            stat_server.stop()
        self._selector.close()

    # --- called from other threads -----------------------------------------------------------

    def refresh(self, cluster: int, reason: str) -> None:
        self._topologies[cluster].refresh(reason)

    def slow_log(self, cluster: int) -> list[SlowRecord]:
        """The slow log of all workers since it was last reset, oldest first."""
        found = [
            slow_record(worker, entry, len(self._workers))
            for worker in self._workers
            for entry in worker.slow_entries(cluster, self._slow_seen.get((cluster, worker.number), 0))
        ]
        return sorted(found, key=lambda record: record.when)

    def reset_slow_log(self, cluster: int) -> None:
        for worker in self._workers:
            entries = worker.slow_entries(cluster, 0)
            if entries:
                self._slow_seen[cluster, worker.number] = entries[-1][0]

    def facts(self, cluster: int) -> Facts:
        totals = [worker.totals() for worker in self._workers]
        topology = self._topologies[cluster].current
        listen = self.config.clusters[cluster].listen_addr
        return Facts(
            redis_version=topology.redis_version if topology else "",
            proxy_version=__version__,
            started=self._started,
            tcp_port=listen.port if isinstance(listen, Address) else 0,
            connected_clients=sum(worker.load for worker in self._workers),
            max_clients=self.config.proxy.max_connections,
            max_bulk_length=self.config.proxy.max_bulk_length,
            read_timeout=self.config.proxy.read_timeout,
            accepted=self._accepted,
            rejected=self._rejected,
            bytes_in=sum(total["client_in"] for total in totals),
            bytes_out=sum(total["client_out"] for total in totals),
            blocked_clients=sum(worker.blocked(cluster) for worker in self._workers),
        )

    def _publish(self, cluster: int, topology: Topology) -> None:
        near = self._zones[cluster].near(topology.servers)
        for worker in self._workers:
            worker.set_topology(cluster, topology, near)
        if topology.redis_version and (cluster, topology.redis_version) not in self._learnt:
            self._learn_commands(cluster, topology)

    def _learn_commands(self, cluster: int, topology: Topology) -> None:
        """Adds the commands these servers know and our table does not: modules, newer servers."""
        config = self.config.clusters[cluster]
        limit = config.dial_timeout / 1000 or 5.0
        for shard in topology.shards:
            try:
                with Connection.to(config, shard.master, limit) as connection:
                    table = self._table.extended(connection.call("COMMAND"))
            except (OSError, ReplyError) as error:
                log.warning("cluster=%s server=%s COMMAND: %s", config.name, shard.master, error)
                continue
            self._learnt.add((cluster, topology.redis_version))
            if len(table.commands) > len(self._table.commands):
                log.info(
                    "cluster=%s %d more commands learnt",
                    config.name,
                    len(table.commands) - len(self._table.commands),
                )
                self._table = table
                for worker in self._workers:
                    worker.set_commands(table)
            return

    def _pinged(self, cluster: int) -> tuple[Address, ...]:
        """The servers that requests go to."""
        topology = self._topologies[cluster].current
        if topology is None:
            return ()
        return topology.masters if self.config.clusters[cluster].read_from == "master" else topology.servers

    def _troubled(self, cluster: int) -> bool:
        return self._pingers[cluster].missing

    def _report(self, cluster: int, server: Address, alive: bool) -> None:
        """Takes what the pings tell of a server."""
        self.refresh(cluster, "pings")
        if self.config.clusters[cluster].ping_auto_eject:
            for worker in self._workers:
                worker.eject(cluster, server, not alive)

    def _health(self, _query: Query) -> Reply:
        """200 while the process works at all: restarting it would not help otherwise."""
        hung = [worker.thread.name for worker in self._workers if self._hangs[worker.number] >= HUNG_AFTER]
        wrong = dict.fromkeys(hung, "makes no turns")
        return json_page(503 if wrong else 200, {"ok": not wrong, "wrong": wrong})

    def _readiness(self, _query: Query) -> Reply:
        """200 only while a client that connects now would be served."""
        wrong = self._not_ready()
        return json_page(503 if wrong else 200, {"ok": not wrong, "wrong": wrong})

    def _not_ready(self) -> dict[str, str]:
        """Why not, by cluster or for the whole process."""
        wrong: dict[str, str] = {}
        if self._withdrawn:
            wrong["process"] = "draining, by SIGUSR2"
        if self._ending:
            wrong["process"] = "ending"
        if not self._accepting:
            wrong["process"] = "out of descriptors: accepting pauses"
        for config, thread in zip(self.config.clusters, self._topologies, strict=True):
            if thread.current is None:
                wrong[config.name] = thread.last_error or "no topology yet"
            elif not thread.current.covered:
                wrong[config.name] = f"{16384 - thread.current.slots_covered} slots have no server"
        return wrong

    def _status(self, _query: Query) -> Reply:
        """What runs here, and by which configuration. Times are in seconds since 1970."""
        wrong = self._not_ready()
        return json_page(
            200,
            {
                "version": __version__,
                "prefix": str(Path(sys.prefix).resolve()),
                "pid": os.getpid(),
                "started": self._started,
                "ready": not wrong,
                "wrong": wrong,
                "connections": sum(worker.load for worker in self._workers),
                "config_epoch": self._config_epoch,
                "config_loaded": self._config_loaded,
                "reload_failed": self._reload_failed,
                "needs_restart": self._needs_restart,
            },
        )

    def _metrics_page(self) -> Page:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(ProxyCollector(self._workers, self._state, lambda: self._table))
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            registry.register(collector)
        return lambda _: (200, CONTENT_TYPE_LATEST, generate_latest(registry))

    def _state(self) -> ProcessState:
        clusters = []
        for config, thread, pinger in zip(self.config.clusters, self._topologies, self._pingers, strict=True):
            current = thread.current
            clusters.append(
                ClusterState(
                    config.name,
                    slots_covered=current.slots_covered if current else 0,
                    masters=len(current.masters) if current else 0,
                    replicas=len(current.servers) - len(current.masters) if current else 0,
                    fetched_seconds_ago=time.monotonic() - thread.fetched_at if current else None,
                    topology_changes=thread.changes,
                    ping_failures={str(server): count for server, count in pinger.failures.items()},
                    ping_seconds={str(server): seconds for server, seconds in pinger.seconds.items()},
                )
            )
        return ProcessState(
            clusters,
            ready=not self._not_ready(),
            max_connections=self.config.proxy.max_connections,
            accepted=self._accepted,
            rejected=self._rejected,
            accept_pauses=self._accept_pauses,
            log_records_dropped=logs.dropped(),
            config_epoch=self._config_epoch,
            config_loaded=self._config_loaded,
            reload_failed=self._reload_failed,
        )


def _notify(**state: str | int) -> None:
    """Tells systemd. One that can't be told must not end a proxy that serves."""
    try:
        systemd.notify(**state)
    except OSError as error:
        log.warning("systemd can't be told %s: %s", ", ".join(state), error)


def serve(config: Config, options: Options, load: Callable[[], Config], watched: Sequence[Path]) -> int:
    """Runs a proxy until it is told to end; returns the exit status.

    ``load`` reads its files again, by SIGHUP or when those that are ``watched`` change.
    """
    try:
        server = Server(config, options, load, WatchedFiles(watched))
    except OSError as error:
        print(f"redis-proxy: {error.strerror or error}", file=sys.stderr)
        return 1
    return server.run()
