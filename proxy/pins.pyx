"""Pinned upstreams: connections to servers that one session has to itself for a while.

What blocks would hold up all others on a shared connection, and what a server remembers of a
connection (WATCH) must be one session's. Given back, a connection is kept for the next.
"""

from libc.stdint cimport uint8_t

from proxy.buffers cimport release_if_empty
from proxy.model cimport IDLE, OPEN, UPSTREAM, Core, Request, Server, Session, Upstream
from proxy.reactor cimport close_conn
from proxy.requests cimport free_request_node
from proxy.servers cimport add_upstream


cdef inline uint8_t _place(uint8_t protocol) noexcept nogil:
    return 1 if protocol == 3 else 0


cdef bint has_pins_left(const Server *server) noexcept nogil:
    return server.pins < server.cluster.most_pins


cdef Upstream *lease(Server *server, Session *session) noexcept nogil:
    """A connection, perhaps still to be dialed, that is the session's until it is given back."""
    cdef uint8_t place = _place(session.protocol)
    cdef Upstream *upstream = server.free_pins[place]
    if upstream == NULL:
        upstream = add_upstream(server, UPSTREAM, session.protocol)
        upstream.pinned = True
    else:
        server.free_pins[place] = upstream.next_free
    upstream.session = session
    server.pins += 1
    return upstream


cdef void give_back(Upstream *upstream) noexcept nogil:
    """Ends a lease; the server must remember nothing of the session."""
    cdef Server *server = upstream.server
    cdef uint8_t place = _place(upstream.protocol)
    upstream.session = NULL
    upstream.next_free = server.free_pins[place]
    server.free_pins[place] = upstream
    server.pins -= 1


cdef void drop_pin(Core *core, Upstream *upstream) noexcept nogil:
    """Ends a lease in the midst of something, for a session that ends: closing cancels it."""
    cdef Request *request
    while upstream.head != NULL:
        request = upstream.head
        upstream.head = request.awaiting
        upstream.server.awaited -= 1
        free_request_node(core, request)
    upstream.tail = NULL
    upstream.conn.output.start = upstream.conn.output.end
    release_if_empty(&upstream.conn.output, &core.pool)
    if upstream.state == OPEN:
        close_conn(core, &upstream.conn)
        upstream.state = IDLE
    give_back(upstream)
