"""What a data plane tells of itself, in the shapes of ``proxy.counters``.

All but ``upstream_rows`` may be called by any thread: they read counters, which are a turn old at worst.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from proxy.buffers cimport length
from proxy.model cimport (
    ERROR_CODES, IDLE, LATENCY_BUCKETS, MAX_COMMANDS, OPEN, SLOW_BYTES, SLOW_ENTRIES, SUBSCRIBER,
    WIDTH_BUCKETS, Cluster, Core, Histogram, Request, Server, SlowEntry, Upstream,
)

from proxy.counters import UpstreamRow

# Kept in step with UpstreamState in model.pxd.
STATES = ("idle", "dialing", "open", "resting")


cdef dict snapshot_of(Cluster *c):
    """Counters of a cluster; see ``proxy.counters.Snapshot``."""
    cdef Server *server
    cdef uint32_t i, n
    servers = []
    for i in range(c.server_count):
        server = c.servers[i]
        if server.listed:
            servers.append((
                server.name.decode(),
                sum([server.upstreams[n].state == OPEN for n in range(server.upstream_count)]),
                server.awaited, server.lost, server.refused, bool(server.ejected),
                _histogram(&server.latency)))
    return {
        "sessions": c.sessions,
        "blocked": c.blocked,
        "parked": c.parked,
        "epoch": c.epoch,
        "moved": c.moved,
        "asked": c.asked,
        "retried": c.retried,
        "timeouts": c.timeouts,
        "unknown_outcomes": c.unknown_outcomes,
        "output_overflows": c.output_overflows,
        "evicted": c.evicted,
        "turned_away": c.turned_away,
        "protocol_errors": c.protocol_errors,
        "slow_requests": c.slow_count,
        "errors": [c.errors[i] for i in range(ERROR_CODES)],
        "widths": [c.widths[i] for i in range(WIDTH_BUCKETS)],
        "parts": c.parts,
        "commands": [
            (i, c.commands[i].errors, _histogram(&c.commands[i].latency))
            for i in range(MAX_COMMANDS) if c.commands[i].latency.count],
        "servers": servers,
    }


cdef dict totals_of(Core *core):
    """Counters of the worker as a whole; see ``proxy.counters.Totals``."""
    return {
        "turns": core.turns,
        "client_in": core.client_in,
        "client_out": core.client_out,
        "server_in": core.server_in,
        "server_out": core.server_out,
        "waiting": core.waiting,
        "transferring": core.transferring,
        "deciding": core.deciding,
        "buffer_bytes": core.pool.held,
        "memory_limit": core.limits.memory,
    }


cdef list upstream_rows(Cluster *c):
    """Connections to the servers of a cluster: see ``proxy.counters.UpstreamRow``."""
    cdef Upstream *upstream
    cdef Request *request
    cdef uint32_t i, n, waiting
    rows = []
    for i in range(c.server_count):
        for n in range(c.servers[i].upstream_count):
            upstream = c.servers[i].upstreams[n]
            if upstream.state == IDLE:
                continue
            waiting = 0
            request = upstream.head
            while request != NULL:
                waiting += 1
                request = request.awaiting
            rows.append(UpstreamRow(
                server=upstream.server.name.decode(),
                number=n,
                kind=(
                    "subscriber" if upstream.conn.kind == SUBSCRIBER
                    else "pinned" if upstream.pinned else "shared"),
                resp=upstream.protocol,
                state=STATES[upstream.state],
                session=0 if upstream.session == NULL else upstream.session.id,
                waiting=waiting,
                waited=0.0 if waiting == 0 else (c.core.now - upstream.head.sent) / 1e9,
                output=length(&upstream.conn.output),
                failures=upstream.failures))
    return rows


cdef list slow_entries_of(Cluster *c, uint64_t after):
    """Slow requests numbered above ``after`` that are still remembered, oldest first."""
    cdef SlowEntry entry
    cdef uint64_t number, count = c.slow_count
    found = []
    if c.slow == NULL:
        return found
    for number in range(max(after, count - SLOW_ENTRIES if count > SLOW_ENTRIES else 0), count):
        memcpy(&entry, &c.slow[number % SLOW_ENTRIES], sizeof(SlowEntry))
        # One that is being written, or has been written over since, is passed over.
        if entry.sequence == number + 1 == c.slow[number % SLOW_ENTRIES].sequence:
            found.append((
                number + 1, entry.session, c.core.now - entry.ended, entry.total,
                entry.waiting, c.servers[entry.server].name.decode(), entry.client.decode(), entry.size,
                entry.shown[:min(entry.size, <uint32_t>SLOW_BYTES)]))
    return found


cdef tuple _histogram(Histogram *histogram):
    cdef int i
    return (
        histogram.count, histogram.nanoseconds,
        [histogram.buckets[i] for i in range(LATENCY_BUCKETS)])
