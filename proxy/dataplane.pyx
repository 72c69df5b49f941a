"""A worker's data plane: the loop of turns, and what the control plane may do to it.

Everything here but ``snapshot`` and ``slow_entries`` is called by the worker's own thread, so
nothing is locked. Those two only read, from any thread: counters that are a turn old at worst.
"""

from cpython.bytearray cimport PyByteArray_AsString
from cpython.bytes cimport PyBytes_AsString, PyBytes_Size
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strerror

from proxy.buffers cimport clear_pool, length, resize
from proxy.dispatch cimport Dispatcher
from proxy.eviction cimport relieve
from proxy.model cimport (
    CLOSED, ENDED, FAILED, MAX_COMMANDS, NO_REFRESH, NO_SERVER, OPEN, READY, SLOTS, SLOW_ENTRIES,
    SUBSCRIBER, UPSTREAM, Cluster, CommandStats, Conn, Core, Request, Server, Session, SlowEntry,
    Upstream,
)
from proxy.reactor cimport reactor_close, reactor_open, turn
from proxy.readings cimport slow_entries_of, snapshot_of, totals_of, upstream_rows
from proxy.servers cimport free_server, server_named, set_replicas, subscriber_of
from proxy.sessions cimport close_session, kill_session, open_session, push
from proxy.settle cimport next_timeout, pause, settle, sweep
from proxy.subscribers cimport break_subscriber, next_message, send_to_subscriber
from proxy.upstreams cimport (
    break_upstream, read_replies, shed, try_again, unblock, upstream_opened, upstream_refused,
)

import logging

from proxy.answers.registry import SessionRow
from proxy.host import available_memory

log = logging.getLogger("proxy.dataplane")

# Kept in step with ReadFrom in model.pxd.
READ_FROM = ("master", "prefer_replica", "replica", "nearest")

cdef const char *NOBODY = b"\0"

cdef enum:
    REFRESH_PAUSE = 20_000_000      # ns between two refreshes asked for
    MOST_REPLICAS = 64              # of one master that are read from

REFRESH_REASONS = (
    "", "redirected", "connection lost", "server is not ready", "no server for a slot",
    "server does not answer")


cdef class DataPlane(Dispatcher):
    """Sessions and upstreams of one worker.

    ``owner`` answers for it in Python: ``mail()`` when the mailbox eventfd was written to,
    ``dial(cluster, server, protocol, number, pinned)``, ``refresh(cluster, reason)``,
    ``client(session, fd, cluster, since)``, ``answer(client, cluster, args)``,
    ``refuse(verdict, command, args)``, ``messages(cluster, server, messages)``,
    ``subscriber_opened(cluster, server)``, ``subscriber_lost(cluster, server)`` and
    ``unsubscribed(cluster, session)``.
    """

    cdef Conn mailbox
    cdef list flags
    cdef int workers

    def __init__(self, owner, int mailbox, config, int workers):
        cdef Core *core = &self.core
        self.owner = owner
        self.flags = []
        self.workers = workers
        clients, awaited, unsubscribed, further = {}, {}, [], []
        for one in (clients, awaited, unsubscribed, further):
            Py_INCREF(one)
        core.clients, core.awaited = <void *>clients, <void *>awaited
        core.unsubscribed, core.further = <void *>unsubscribed, <void *>further
        core.clusters = <Cluster **>resize(NULL, max(1, len(config.clusters)) * sizeof(void *))
        for cluster in config.clusters:
            self._add_cluster(
                -(-cluster.node_connections // workers), -(-cluster.pinned_connections // workers),
                READ_FROM.index(cluster.read_from))
        self.configure(config)
        if not reactor_open(core, mailbox, &self.mailbox):
            raise OSError("epoll can't be opened")

    def _add_cluster(self, int connections, int pins, int read_from):
        cdef Cluster *cluster = <Cluster *>resize(NULL, sizeof(Cluster))
        cdef uint32_t slot
        memset(cluster, 0, sizeof(Cluster))
        cluster.core = &self.core
        cluster.index = self.core.cluster_count
        cluster.connections = max(1, connections)
        cluster.most_pins = min(max(1, pins), 0x7fff)
        cluster.read_from = read_from
        cluster.epoch = 1
        cluster.subscribed = NOBODY
        for slot in range(SLOTS):
            cluster.owners[slot] = NO_SERVER
        cluster.commands = <CommandStats *>resize(NULL, MAX_COMMANDS * sizeof(CommandStats))
        memset(cluster.commands, 0, MAX_COMMANDS * sizeof(CommandStats))
        self.core.clusters[cluster.index] = cluster
        self.core.cluster_count += 1

    def __dealloc__(self):
        cdef Core *core = &self.core
        cdef Cluster *cluster
        cdef Request *request
        cdef uint32_t i, n
        while core.sessions != NULL:
            close_session(core, core.sessions)
        for i in range(core.cluster_count):
            cluster = core.clusters[i]
            for n in range(cluster.server_count):
                free_server(core, cluster.servers[n])
            free(cluster.servers)
            free(cluster.commands)
            free(cluster.slow)
            free(cluster)
        free(core.clusters)
        for i in range(core.dead.count):
            free(core.dead.items[i])
        while core.free_requests != NULL:
            request = core.free_requests
            core.free_requests = request.next
            free(request.reply)
            free(request)
        if self.mailbox.fd:
            reactor_close(core)
        if core.clients != NULL:
            Py_DECREF(<object>core.clients)
            Py_DECREF(<object>core.awaited)
            Py_DECREF(<object>core.unsubscribed)
            Py_DECREF(<object>core.further)
        clear_pool(&core.pool)

    # --- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Turns until ``stop``. The GIL is only taken for what needs Python."""
        cdef Core *core = &self.core
        with nogil:
            while not core.stopped:
                turn(core, next_timeout(core))
                self._decide()

    cdef void _decide(self) noexcept nogil:
        cdef Core *core = &self.core
        cdef Session *session
        cdef size_t i
        if core.mail:
            core.mail = False
            with gil:
                self._forget_subscriptions()
                self._call("mail")
        relieve(core)
        self._serve_ready()
        settle(core)
        sweep(core)
        while core.woken.count or core.ready.count:
            i = 0
            while i < core.woken.count:
                session = <Session *>core.woken.items[i]
                session.woken = False
                if not session.conn.flags & CLOSED:
                    self.serve(session)
                i += 1
            core.woken.count = 0
            self._serve_ready()
        if core.goes_on:
            core.goes_on = False
            self._go_on()
        if core.dials.count:
            self._ask_for_dials()
        self._ask_for_refresh()

    cdef void _serve_ready(self) noexcept nogil:
        cdef Core *core = &self.core
        cdef Conn *conn
        cdef size_t i = 0
        while i < core.ready.count:
            conn = core.ready.items[i]
            conn.flags &= ~READY
            if not conn.flags & CLOSED:
                if conn.kind == UPSTREAM:
                    self._serve_upstream(<Upstream *>conn)
                elif conn.kind == SUBSCRIBER:
                    self._serve_subscriber(<Upstream *>conn)
                else:
                    self.serve(<Session *>conn)
            i += 1
        core.ready.count = 0

    cdef void _serve_upstream(self, Upstream *upstream) noexcept nogil:
        if length(&upstream.conn.input):
            read_replies(&self.core, upstream)
        if upstream.state == OPEN:
            if upstream.conn.flags & FAILED:
                break_upstream(&self.core, upstream, strerror(upstream.conn.error))
            elif upstream.conn.flags & ENDED:
                break_upstream(&self.core, upstream, b"closed the connection")

    cdef void _serve_subscriber(self, Upstream *upstream) noexcept nogil:
        if length(&upstream.conn.input) > upstream.framed:
            self._take_messages(upstream)
        if upstream.state == OPEN and upstream.conn.flags & (FAILED | ENDED):
            break_subscriber(&self.core, upstream)
            self._tell_lost(upstream)

    cdef void _take_messages(self, Upstream *upstream) noexcept with gil:
        """Gives Python code every message that has come wholly."""
        cdef size_t size = next_message(&self.core, upstream)
        messages = []
        while size:
            messages.append(
                (upstream.conn.input.data + upstream.conn.input.start)[:size])
            upstream.conn.input.start += size
            size = next_message(&self.core, upstream)
        if messages:
            self._call("messages", upstream.server.cluster.index, upstream.server.name.decode(), messages)

    cdef void _tell_lost(self, Upstream *upstream) noexcept with gil:
        self._call("subscriber_lost", upstream.server.cluster.index, upstream.server.name.decode())

    def _forget_subscriptions(self):
        """Tells of sessions that ended with subscriptions."""
        ended = <list>self.core.unsubscribed
        while ended:
            self._call("unsubscribed", *ended.pop())

    def _call(self, str name, *args):
        """A bug in the owner must not end the thread in silence: it is logged, the loop goes on."""
        try:
            getattr(self.owner, name)(*args)
        except Exception:
            log.exception("%s%r", name, args)

    cdef void _ask_for_dials(self) noexcept with gil:
        cdef size_t i
        cdef Upstream *upstream
        for i in range(self.core.dials.count):
            upstream = <Upstream *>self.core.dials.items[i]
            self._call(
                "dial", upstream.server.cluster.index, upstream.server.name.decode(),
                upstream.protocol, upstream.number, bool(upstream.pinned))
        self.core.dials.count = 0

    cdef void _ask_for_refresh(self) noexcept nogil:
        cdef Core *core = &self.core
        cdef Cluster *cluster
        cdef uint32_t i
        for i in range(core.cluster_count):
            cluster = core.clusters[i]
            if cluster.refresh != NO_REFRESH and core.now >= cluster.refresh_at:
                cluster.refresh_at = core.now + REFRESH_PAUSE
                with gil:
                    self._call("refresh", cluster.index, REFRESH_REASONS[cluster.refresh])
                cluster.refresh = NO_REFRESH

    # --- what the control plane does to it ---------------------------------------------------

    cdef Server *_server(self, int cluster, str name):
        cdef bytes encoded = name.encode()
        return server_named(
            self.core.clusters[cluster], PyBytes_AsString(encoded), PyBytes_Size(encoded))

    def configure(self, config) -> None:
        """Goes by these time limits and sizes from now on. The clusters must be those it was made with."""
        cdef Core *core = &self.core
        cdef Cluster *cluster
        cdef SlowEntry *slow
        proxy = config.proxy
        core.limits.request.inline_length = proxy.max_inline_length
        core.limits.request.arguments = proxy.max_arguments
        core.limits.request.bulk_length = proxy.max_bulk_length
        core.limits.request.query_length = proxy.query_limit
        core.limits.pipeline = proxy.max_pipeline
        core.limits.pipeline_bytes = proxy.pipeline_bytes
        core.limits.output_pause = proxy.output_pause
        core.limits.output_limit = proxy.output_limit
        core.limits.memory = (proxy.memory_limit or available_memory() // 2) // self.workers
        core.limits.read_timeout = proxy.read_timeout * 1_000_000
        core.limits.write_timeout = proxy.write_timeout * 1_000_000
        for index, values in enumerate(config.clusters):
            cluster = core.clusters[index]
            cluster.read_timeout = values.read_timeout * 1_000_000
            cluster.write_timeout = values.write_timeout * 1_000_000
            cluster.protected = bool(values.client_password or values.client_users)
            cluster.slower_than = values.slowlog_slower_than * 1_000
            if cluster.slower_than and cluster.slow == NULL:
                slow = <SlowEntry *>resize(NULL, SLOW_ENTRIES * sizeof(SlowEntry))
                memset(slow, 0, SLOW_ENTRIES * sizeof(SlowEntry))
                cluster.slow = slow  # others may read it from now on
        core.sweep_at = core.settle_at = 0

    def deny(self, int cluster, bytes denied) -> None:
        """Has clients not use some commands: see ``proxy.commands.CommandTable.denied``."""
        cdef Cluster *c = self.core.clusters[cluster]
        memset(c.denied, 0, sizeof(c.denied))
        memcpy(c.denied, PyBytes_AsString(denied), min(len(denied), <int>MAX_COMMANDS))

    def heed(self, int cluster, flag) -> None:
        """Takes a bytearray whose first byte says whether anybody of this process has subscriptions."""
        self.flags.append(flag)
        self.core.clusters[cluster].subscribed = PyByteArray_AsString(flag)

    def add_session(self, int cluster, int fd, uint64_t session) -> None:
        """Takes a client's nonblocking socket; it is closed here from now on."""
        open_session(&self.core, self.core.clusters[cluster], fd, session)

    def set_topology(self, int cluster, shards, near) -> None:
        """Takes who owns what: shards as (master, [(first slot, last slot), …], [replica, …]).

        ``near`` are the servers in our own availability zone.
        """
        cdef Cluster *c = self.core.clusters[cluster]
        cdef uint16_t owners[SLOTS]
        cdef uint16_t found[MOST_REPLICAS]
        cdef Server *server
        cdef uint32_t i, n
        cdef int slot, first, last
        cdef bint changed = not c.known
        for i in range(SLOTS):
            owners[i] = NO_SERVER
        succeeded = self._succeeded(c, shards)
        for i in range(c.server_count):
            c.servers[i].listed = c.servers[i].owns = c.servers[i].near = False
            c.servers[i].replica_count = 0
        for name, ranges, replicas in shards:
            for n, replica in enumerate(replicas[:MOST_REPLICAS]):
                server = self._server(cluster, replica)
                server.listed = True
                server.near = replica in near
                found[n] = server.index
            server = self._server(cluster, name)
            server.listed = True
            server.near = name in near
            set_replicas(server, found, min(len(replicas), <size_t>MOST_REPLICAS))
            for first, last in ranges:
                server.owns = True
                for slot in range(first, last + 1):
                    owners[slot] = server.index
        for i in range(SLOTS):
            if c.owners[i] != owners[i]:
                c.owners[i] = owners[i]
                changed = True
        for i in range(c.server_count):
            server = c.servers[i]
            if server.owns:
                server.succeeded_at = 0
            elif not server.succeeded_at and i in succeeded:
                server.succeeded_at = self.core.now
            if changed:
                for n in range(server.upstream_count):
                    shed(&self.core, server.upstreams[n])
                    try_again(&self.core, server.upstreams[n])
        if changed:
            c.epoch += 1
        c.known = True
        self.core.settle_at = self.core.sweep_at = 0

    cdef set _succeeded(self, Cluster *cluster, shards):
        """Indices of masters whose slots are now their replicas'."""
        cdef Server *server
        cdef Server *master
        cdef uint32_t i, n
        found = set()
        for name, ranges, _ in shards:
            server = self._server(cluster.index, name)
            if server.owns or not ranges:
                continue
            for i in range(cluster.server_count):
                master = cluster.servers[i]
                for n in range(master.replica_count):
                    if master.replicas[n] == server.index:
                        found.add(i)
        return found

    def eject(self, int cluster, str name, bint ejected) -> None:
        """Keeps requests off a server that fails its pings, or lets them on it again."""
        self._server(cluster, name).ejected = ejected
        self.core.settle_at = 0

    def opened(self, int cluster, str name, int number, int fd, uint64_t peer_id) -> None:
        """Takes a connection to a server, nonblocking and already greeted.

        ``peer_id`` is its CLIENT ID there, or 0.
        """
        cdef Upstream *upstream = self._server(cluster, name).upstreams[number]
        upstream_opened(&self.core, upstream, fd, peer_id)
        if upstream.conn.kind == SUBSCRIBER:
            self._call("subscriber_opened", cluster, name)
        self.core.settle_at = 0

    def refused(self, int cluster, str name, int number, str why) -> None:
        """Takes note that a connection to a server could not be made."""
        cdef Upstream *upstream = self._server(cluster, name).upstreams[number]
        if upstream.conn.kind == SUBSCRIBER:
            break_subscriber(&self.core, upstream)
            self._tell_lost(upstream)
        else:
            upstream_refused(&self.core, upstream, why.encode())

    # --- what answers may do to it -----------------------------------------------------------

    cdef Session *_session(self, uint64_t id):
        cdef Session *session = self.core.sessions
        while session != NULL and session.id != id:
            session = session.next
        return session

    def sessions(self, int cluster) -> list:
        """See ``proxy.answers.registry.Plane``."""
        cdef Session *session = self.core.sessions
        cdef Core *core = &self.core
        rows = []
        while session != NULL:
            if session.cluster.index == cluster and not session.conn.flags & FAILED:
                rows.append(SessionRow(
                    client=self.client_of(session),
                    idle=(core.now - session.conn.heard) / 1e9,
                    queued=session.queued,
                    input=length(&session.conn.input),
                    output=length(&session.conn.output) + session.held,
                    multi=-1 if session.transaction == NULL else session.transaction.count,
                    watching=session.pin != NULL,
                    blocked=session.blocked != NULL,
                    command=self.command_name(session.command)))
            session = session.next
        return rows

    def upstreams(self, int cluster) -> list:
        """Connections to the servers of a cluster: see ``proxy.counters.UpstreamRow``."""
        return upstream_rows(self.core.clusters[cluster])

    def kill(self, uint64_t id) -> bool:
        """See ``proxy.answers.registry.Plane``."""
        cdef Session *session = self._session(id)
        if session != NULL:
            kill_session(&self.core, session)
        return session != NULL

    def unblock(self, uint64_t id, bint error) -> bool:
        """See ``proxy.answers.registry.Plane``."""
        cdef Session *session = self._session(id)
        return session != NULL and unblock(&self.core, session, error)

    def pause(self, int cluster, double seconds, bint writes_only) -> None:
        """See ``proxy.answers.registry.Plane``."""
        pause(&self.core, self.core.clusters[cluster], <int64_t>(seconds * 1e9), writes_only)

    def push(self, uint64_t id, bytes data) -> None:
        """Gives a session that has a client bytes out of turn."""
        address = (<dict>self.core.clients).get(id)
        if address is not None:
            push(&self.core, <Session *><size_t>address, data, len(data))

    def drop_subscriber(self, int cluster, str name) -> None:
        """Gives up the connection to a server that only carries subscriptions."""
        break_subscriber(&self.core, subscriber_of(self._server(cluster, name)))
        self._call("subscriber_lost", cluster, name)

    def subscriber_send(self, int cluster, str name, bytes data) -> None:
        """Sends a request on the connection to a server that only carries subscriptions."""
        send_to_subscriber(&self.core, subscriber_of(self._server(cluster, name)), data, len(data))

    def drain(self, double grace) -> None:
        """Ends every session with the replies to what it has in flight, or to its next request.

        A session that has none within ``grace`` seconds is ended without. So the end of most sessions comes
        with a reply, when the client has nothing on its way to us.
        """
        self.core.draining = True
        self.core.drain_until = self.core.now + <int64_t>(grace * 1e9)
        self.core.sweep_at = 0

    def stop(self) -> None:
        """Has ``run`` return after this turn."""
        self.core.stopped = True

    # --- what others may read ----------------------------------------------------------------

    @property
    def sessions_closed(self) -> int:
        return self.core.sessions_closed

    def blocked(self, int cluster) -> int:
        return self.core.clusters[cluster].blocked

    def snapshot(self, int cluster) -> dict:
        """Counters of a cluster; see ``proxy.counters.Snapshot``."""
        return snapshot_of(self.core.clusters[cluster])

    def client(self, uint64_t id) -> object:
        """What Python code knows of a session: a Client, or None."""
        # As long as it is in the dict, and the GIL is held, its session is there.
        address = (<dict>self.core.clients).get(id)
        return None if address is None else <object>(<Session *><size_t>address).client

    def totals(self) -> dict:
        """Counters of the worker as a whole; see ``proxy.counters.Totals``."""
        return totals_of(&self.core)

    def slow_entries(self, int cluster, uint64_t after) -> list:
        """Slow requests numbered above ``after`` that are still remembered, oldest first."""
        return slow_entries_of(self.core.clusters[cluster], after)
