"""Subscribers: for each server one connection that only carries subscriptions.

What is subscribed to, and by whom, is known to ``proxy.pubsub``; here are the bytes.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from proxy.buffers cimport append, length, release, release_if_empty
from proxy.model cimport (
    DIALING, FAILED, IDLE, OPEN, RESTING, Core, Upstream,
)
from proxy.reactor cimport close_conn, note_ready, push_conn, will_write
from proxy.resp cimport SCAN_ERROR, SCAN_MORE, ScanStatus, scan_reply

cdef enum:
    BIG_READ = 65536

cdef int64_t REST = 100_000_000     # ns between two attempts to connect


cdef void _dial(Core *core, Upstream *upstream) noexcept nogil:
    upstream.state = DIALING
    push_conn(&core.dials, &upstream.conn)


cdef void send_to_subscriber(Core *core, Upstream *upstream, const char *data, size_t size) noexcept nogil:
    append(&upstream.conn.output, &core.pool, data, size)
    if upstream.state == OPEN:
        will_write(core, &upstream.conn)
    elif upstream.state == IDLE:
        _dial(core, upstream)


cdef void check_subscriber(Core *core, Upstream *upstream) noexcept nogil:
    """Connects anew when it is time; gives up a connection to a server that the cluster has no more."""
    if upstream.state == RESTING and core.now >= upstream.retry_at:
        upstream.state = IDLE
        if length(&upstream.conn.output):
            _dial(core, upstream)
    elif upstream.state == OPEN and (upstream.server.ejected or not upstream.server.listed):
        upstream.conn.flags |= FAILED
        note_ready(core, &upstream.conn)


cdef void break_subscriber(Core *core, Upstream *upstream) noexcept nogil:
    """Gives the connection up, or takes note that none could be made; what was to be sent is forgotten."""
    if upstream.state == OPEN:
        upstream.server.lost += 1
        close_conn(core, &upstream.conn)
    else:
        upstream.server.refused += 1
        release(&upstream.conn.output, &core.pool)
    upstream.state = RESTING
    upstream.retry_at = core.now + REST


cdef size_t next_message(Core *core, Upstream *upstream) noexcept nogil:
    """The size of the whole message at the start of the input; 0 if there is none yet.

    A server that sends what is no RESP, or a message larger than a request may be, is marked as failed.
    """
    cdef size_t used = 0, size
    cdef ScanStatus status
    upstream.conn.wanted = 0
    if length(&upstream.conn.input) == upstream.framed:
        release_if_empty(&upstream.conn.input, &core.pool)
        return 0
    status = scan_reply(
        &upstream.scan, upstream.conn.input.data + upstream.conn.input.start + upstream.framed,
        length(&upstream.conn.input) - upstream.framed, &used)
    upstream.framed += used
    size = upstream.framed + <size_t>upstream.scan.bulk
    if status == SCAN_ERROR or size > core.limits.request.query_length:
        upstream.conn.flags |= FAILED
        return 0
    if status == SCAN_MORE:
        if upstream.scan.bulk > BIG_READ:
            upstream.conn.wanted = <unsigned int>(
                upstream.scan.bulk if upstream.scan.bulk < 0x7fffffff else 0x7fffffff)
        return 0
    size = upstream.framed
    upstream.framed = 0
    memset(&upstream.scan, 0, sizeof(upstream.scan))
    return size
